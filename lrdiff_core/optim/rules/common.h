/* What the rules in this folder share. kernel.c includes them, and has the table that they read.
 *
 * A rule is two functions: the one that Python calls counts steps and reduces each tensor's settings to a few floats
 * (`scalars`), the other goes through a piece of a tensor. Torch's loops round some operations of these rules in
 * another place; what is meant to have an oracle's bits says so.
 */

/* What gradients are multiplied by: clipped, and with the sign of an ascent. */
static inline float factor_of(const Table *t, int32_t k) {
    const float factor = t->factor ? t->factor[k] : 1.0f;
    return t->flags[k] & MAXIMIZE ? -factor : factor;
}

/* Without decay both kinds agree but for infinities; decoupled is then a multiplication by one. */
static inline int is_decoupled(const Table *t, int32_t k) { return t->flags[k] & DECOUPLED || t->weight_decay[k] == 0; }

static inline float decay_of(const Table *t, int32_t k) {
    const double decay = t->weight_decay[k];
    if (decay == 0) return 1.0f; /* the rate may be infinite */
    return (float)(t->flags[k] & DECOUPLED ? 1.0 - t->lr[k] * decay : decay);
}
