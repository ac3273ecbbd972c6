/* The check before a step, where nothing has changed but numbers: one call that makes no Python object.
 *
 * It compares what Prepared.gather (prepared.py) compares, and steps if all is as before; whatever is not is left to that
 * function. A step that follows a forward and backward pass finds these some thirty cache
 * lines a tensor in main memory: they are asked for ahead (prefetch), so that many are on their way at a time, where
 * Python waits for one after the other.
 *
 * guard.py compiles this file against the headers of the torch that is here: layouts of tensors are read through torch's
 * own classes. The one that is not in a header without ATen, the beginning of a tensor's Python object, is compared with
 * what torch says (Tensor._cdata) before it is trusted.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <c10/core/TensorImpl.h>
#include <c10/core/UndefinedTensorImpl.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <cstring>
#include <vector>

#ifdef Py_GIL_DISABLED
#error "what is compared here is protected by Python's global lock"
#endif

namespace {

using c10::TensorImpl;

struct Object { /* how torch's Python tensors begin */
    PyObject_HEAD
    TensorImpl *impl;
};

TensorImpl *impl_of(PyObject *tensor) { return reinterpret_cast<Object *>(tensor)->impl; }

/* A tensor that stays from step to step, and where its numbers lie: of a sharded one (a DTensor) its local part. */
struct Held {
    PyObject *owner; /* the optimizer's own tensor */
    PyObject *object; /* its local part, or the same */
    TensorImpl *impl;
    const c10::StorageImpl *storage;
    const void *data;
    c10::DeleterFnPtr deleter; /* of the data: another one where a lazy copy shares them */
    int64_t offset, numel;
};

struct Parameter {
    Held held;
    bool present; /* has a gradient */
    const void *meta, *counter; /* of autograd, to be asked for ahead */
    c10::DispatchKeySet keys, grad_keys;
    PyTypeObject *kind;
    PyObject *spec; /* how the gradient is sharded, as the parameter is; nullptr where it is not */
    size_t rank, layout; /* sizes, strides, strides of the gradient: rank numbers each, from `layout` on */
    PyObject *entry; /* its state, a dict with the values [first, last) */
    const void *entry_keys;
    size_t first, last;
};

struct Group {
    size_t first, last; /* parameters */
    Py_ssize_t place;   /* in the optimizer's list, which has others that are stepped elsewhere */
};

struct Guard {
    PyObject_HEAD
    struct Content *content;
};

struct Content {
    /* Keeps everything alive that is compared by its address. */
    PyObject *keep = nullptr, *prepared = nullptr;
    PyObject *names = nullptr, *hooks = nullptr, *compiler = nullptr, *thread_count = nullptr;
    std::vector<PyObject *> settings; /* owned; [groups][names] */
    std::vector<Group> groups;
    std::vector<Parameter> params;
    std::vector<Held> values;
    std::vector<PyObject *> entries; /* all of the optimizer's state, covered here or not */
    std::vector<int64_t> layouts;
    std::vector<TensorImpl *> grads; /* of this step */
    int64_t numbers = 0;             /* in the parameters */
    Py_ssize_t all_groups = 0;       /* of the optimizer, covered here or not */
    PyTypeObject *tensor = nullptr, *sharded = nullptr;
    Py_ssize_t local_part = 0, spec = 0; /* where a sharded tensor's object has these */
    caffe2::TypeMeta dtype = caffe2::TypeMeta::Make<float>();
    bool floating = false;
    Py_ssize_t rate = 0; /* which of the names is lr */
    double *rates = nullptr;
    void **grad = nullptr;
    int64_t *threads = nullptr, most_threads = 1;
    int (*run)(const void *) = nullptr;
    const void *table = nullptr;
};

PyObject *word(const char *text) { return PyUnicode_InternFromString(text); }
PyObject *PARAMS, *GROUPS, *STATE, *FOUND_INF, *BEFORE, *AFTER, *BEFORE_ALL, *AFTER_ALL, *RETUNE, *SETTINGS, *COMPILING;

inline void ask(const void *address) { __builtin_prefetch(address); }
inline void ask_lines(const void *address, int lines) {
    for (int i = 0; i < lines; i++) ask(static_cast<const char *>(address) + 64 * i);
}
constexpr int LINES = (sizeof(TensorImpl) + 63) / 64 + 1; /* that an unaligned one may touch */
constexpr int TAIL = sizeof(TensorImpl) - 64;             /* where offset and numel are, behind sizes and strides */
constexpr size_t BLOCK = 8; /* parameters that are asked for at a time */

PyObject *slot(PyObject *object, Py_ssize_t offset) {
    return *reinterpret_cast<PyObject **>(reinterpret_cast<char *>(object) + offset);
}

void ask_held(const Held &held) {
    if (held.owner != held.object) ask(held.owner);
    const char *impl = reinterpret_cast<const char *>(held.impl);
    ask(held.object);
    ask(impl + 16);
    ask_lines(impl + TAIL, 2);
    ask(held.storage);
}

void ask_for(const Content &c, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        const Parameter &p = c.params[i];
        ask_held(p.held);
        ask_lines(p.held.impl, LINES);
        ask(p.meta);
        if (!p.present) continue;
        ask(p.counter);
        ask(p.entry);
        ask_lines(p.entry_keys, 2);
        for (size_t j = p.first; j < p.last; j++) ask_held(c.values[j]);
    }
}

inline bool stays(const Content &c, const Held &held) {
    if (held.owner != held.object && slot(held.owner, c.local_part) != held.object) return false;
    const TensorImpl *impl = held.impl;
    if (impl_of(held.object) != impl || impl->unsafe_storage().unsafeGetStorageImpl() != held.storage) return false;
    if (impl->storage_offset() != held.offset || impl->numel() != held.numel) return false;
    const at::DataPtr &numbers = held.storage->data_ptr();
    return numbers.get() == held.data && numbers.get_deleter() == held.deleter;
}

/* As the two differ in nothing but numbers: what torch.compile's check of tensors compares. */
inline bool alike(const TensorImpl *t, c10::DispatchKeySet keys, caffe2::TypeMeta dtype, size_t rank,
                  const int64_t *sizes, const int64_t *strides) {
    if (t->key_set() != keys || t->dtype() != dtype) return false;
    const auto have = t->sizes(), steps = t->strides();
    if (have.size() != rank) return false;
    for (size_t i = 0; i < rank; i++)
        if (have[i] != sizes[i] || steps[i] != strides[i]) return false;
    return true;
}

TensorImpl *grad_of(const TensorImpl *param) { /* nullptr: none */
    const auto *meta = param->autograd_meta();
    if (!meta) return nullptr;
    /* at::Tensor is one pointer that owns; c10 knows its name alone. */
    auto *grad = *reinterpret_cast<TensorImpl *const *>(&meta->grad());
    return grad == static_cast<TensorImpl *>(c10::UndefinedTensorImpl::singleton()) ? nullptr : grad;
}

/* The local part of a sharded gradient; nullptr if it is sharded in another way, or not there yet. */
TensorImpl *local_grad(const Content &c, const Parameter &p, const TensorImpl *grad) {
    PyObject *object = grad->pyobj_slot()->load_pyobj();
    if (!object || Py_TYPE(object) != c.sharded || slot(object, c.spec) != p.spec) return nullptr;
    PyObject *local = slot(object, c.local_part);
    return local && Py_TYPE(local) == c.tensor ? impl_of(local) : nullptr;
}

void drop_grad(TensorImpl *param) {
    reinterpret_cast<c10::intrusive_ptr<TensorImpl, c10::UndefinedTensorImpl> *>(&param->autograd_meta()->mutable_grad())->reset();
}

/* The parameters and their state are where they were; their gradients are written down, not looked at. */
bool params_stay(Content &c, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        const Parameter &p = c.params[i];
        TensorImpl *grad = grad_of(impl_of(p.held.owner)), *impl = p.held.impl;
        if ((grad != nullptr) != p.present) return false;
        if (p.present && p.spec && !(grad = local_grad(c, p, grad))) return false;
        c.grads[i] = grad;
        if (!p.present) continue;
        ask_lines(grad, LINES);
        const int64_t *sizes = c.layouts.data() + p.layout;
        if (Py_TYPE(p.held.object) != p.kind || !stays(c, p.held)) return false;
        if (!alike(impl, p.keys, c.dtype, p.rank, sizes, sizes + p.rank)) return false;
        PyObject *value;
        Py_ssize_t at = 0;
        size_t j = p.first;
        while (PyDict_Next(p.entry, &at, nullptr, &value))
            if (j == p.last || c.values[j++].owner != value) return false;
        if (j != p.last) return false;
        for (j = p.first; j < p.last; j++)
            if (!stays(c, c.values[j])) return false;
    }
    return true;
}

void ask_for_numbers(const Content &c, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++)
        if (c.grads[i] && c.grads[i]->has_storage()) ask(c.grads[i]->unsafe_storage().unsafeGetStorageImpl());
}

bool grads_fit(const Content &c, size_t begin, size_t end, size_t *found) {
    for (size_t i = begin; i < end; i++) {
        const Parameter &p = c.params[i];
        if (!p.present) continue;
        TensorImpl *grad = c.grads[i];
        const PyObject *object = grad->pyobj_slot()->load_pyobj();
        if (object && object->ob_type != c.tensor) return false;
        const int64_t *sizes = c.layouts.data() + p.layout;
        if (!alike(grad, p.grad_keys, c.dtype, p.rank, sizes, sizes + 2 * p.rank)) return false;
        c.grad[(*found)++] = const_cast<void *>(grad->data());
    }
    return true;
}

/* Whether every tensor is as it was, the gradients' numbers apart, which are written into the table. */
bool tensors_fit(Content &c) {
    const size_t count = c.params.size(), blocks = (count + BLOCK - 1) / BLOCK;
    size_t found = 0;
    const auto from = [&](size_t block) { return std::min(block * BLOCK, count); };
    ask_for(c, 0, from(1));
    for (size_t b = 0; b < blocks + 2; b++) { /* a block's gradients are followed while those after it are on their way */
        ask_for(c, from(b + 1), from(b + 2));
        if (!params_stay(c, from(b), from(b + 1))) return false;
        if (b >= 1) ask_for_numbers(c, from(b - 1), from(b));
        if (b >= 2 && !grads_fit(c, from(b - 2), from(b - 1), &found)) return false;
    }
    return true;
}

bool empty(PyObject *dict, PyObject *name) {
    PyObject *hooks = PyDict_GetItemWithError(dict, name);
    return hooks && PyDict_Check(hooks) && PyDict_GET_SIZE(hooks) == 0;
}

/* Whether no hook, profiler, mode or export wants to see the step, and no scaler has left word. */
bool unobserved(const Content &c, PyObject *own) {
    if (!empty(own, BEFORE) || !empty(own, AFTER) || !empty(c.hooks, BEFORE_ALL) || !empty(c.hooks, AFTER_ALL)) return false;
    if (PyDict_GetItemWithError(c.compiler, COMPILING) != Py_False || PyDict_GetItemWithError(own, FOUND_INF)) return false;
    return !c10::impl::TorchDispatchModeTLS::stack_len() &&
           !c10::ThreadLocalDebugInfo::get(c10::DebugInfoKind::PROFILER_STATE);
}

bool remember(Content &c, PyObject *settings) {
    const Py_ssize_t names = PyTuple_GET_SIZE(c.names);
    if (!PyList_CheckExact(settings) || PyList_GET_SIZE(settings) != static_cast<Py_ssize_t>(c.groups.size())) return false;
    for (size_t g = 0; g < c.groups.size(); g++) {
        PyObject *setting = PyList_GET_ITEM(settings, g);
        if (!PyTuple_Check(setting) || PyTuple_GET_SIZE(setting) != names) return false;
        for (Py_ssize_t k = 0; k < names; k++) {
            PyObject *&held = c.settings[g * names + k];
            Py_XSETREF(held, Py_NewRef(PyTuple_GET_ITEM(setting, k)));
        }
    }
    return true;
}

/* Whether the groups' options are the very objects that they were. A rate that is another number is taken over here; what
 * else is another is compared by its value in Python, and taken over there. */
bool settings_fit(Content &c, PyObject *optimizer, PyObject *groups) {
    const Py_ssize_t names = PyTuple_GET_SIZE(c.names);
    bool moved = false, same = !c.floating;
    for (size_t g = 0; same && g < c.groups.size(); g++) {
        PyObject *group = PyList_GET_ITEM(groups, c.groups[g].place);
        if (!PyDict_Check(group)) return false;
        for (Py_ssize_t k = 0; same && k < names; k++) {
            PyObject *&held = c.settings[g * names + k];
            PyObject *value = PyDict_GetItemWithError(group, PyTuple_GET_ITEM(c.names, k));
            if (value == held) continue;
            if (!value) return false;
            if (k == c.rate && PyFloat_CheckExact(value) && PyFloat_CheckExact(held)) {
                c.rates[g] = PyFloat_AS_DOUBLE(value);
                Py_SETREF(held, Py_NewRef(value));
                moved = true;
            } else {
                same = false;
            }
        }
    }
    if (moved && PyObject_SetAttr(c.prepared, SETTINGS, Py_None)) return false; /* those there are the former ones */
    if (same) return true;
    PyObject *told = PyObject_CallMethodOneArg(c.prepared, RETUNE, optimizer);
    if (!told) return false;
    const bool fits = PyTuple_CheckExact(told) && remember(c, PyTuple_GET_ITEM(told, 0));
    if (fits) c.floating = PyTuple_GET_ITEM(told, 1) == Py_True;
    Py_DECREF(told);
    return fits;
}

bool members_fit(const Content &c, PyObject *groups, PyObject *state) {
    for (size_t g = 0; g < c.groups.size(); g++) {
        PyObject *group = PyList_GET_ITEM(groups, c.groups[g].place), *params = PyDict_Check(group) ? PyDict_GetItemWithError(group, PARAMS) : nullptr;
        const size_t first = c.groups[g].first, count = c.groups[g].last - first;
        if (!params || !PyList_CheckExact(params) || PyList_GET_SIZE(params) != static_cast<Py_ssize_t>(count)) return false;
        for (size_t i = 0; i < count; i++)
            if (PyList_GET_ITEM(params, i) != c.params[first + i].held.owner) return false;
    }
    PyObject *entry;
    Py_ssize_t at = 0;
    size_t i = 0;
    while (PyDict_Next(state, &at, nullptr, &entry))
        if (i == c.entries.size() || c.entries[i++] != entry) return false;
    return i == c.entries.size();
}

enum Answer { AS_BEFORE, OTHERWISE, WATCHED };

/* Whether the optimizer is as it was. An error of Python's is left set. */
Answer compare(Content &c, PyObject *optimizer) {
    PyObject *own = PyObject_GenericGetDict(optimizer, nullptr);
    if (!own) return OTHERWISE;
    if (!unobserved(c, own)) {
        Py_DECREF(own);
        return WATCHED;
    }
    PyObject *groups = PyDict_GetItemWithError(own, GROUPS), *state = PyDict_GetItemWithError(own, STATE);
    bool fine = groups && PyList_CheckExact(groups) && PyList_GET_SIZE(groups) == c.all_groups && state && PyDict_Check(state);
    if (fine) {
        Py_INCREF(groups), Py_INCREF(state);
        fine = settings_fit(c, optimizer, groups) &&
               PyList_GET_SIZE(groups) == c.all_groups && members_fit(c, groups, state) && tensors_fit(c);
        Py_DECREF(groups), Py_DECREF(state);
    }
    Py_DECREF(own);
    return fine ? AS_BEFORE : OTHERWISE;
}

constexpr int64_t FEW = 1 << 16; /* numbers that are stepped sooner than Python's lock is handed on and back */

/* The step, others running meanwhile. Returns what the kernel returned: 0 for a step that was taken. */
int take_step(Content &c, int (*run)(const void *), const void *job) {
    for (TensorImpl *grad : c.grads)
        if (grad) c10::raw::intrusive_ptr::incref(grad);
    int refused;
    if (c.numbers < FEW) {
        refused = run(job);
    } else {
        Py_BEGIN_ALLOW_THREADS
        refused = run(job);
        Py_END_ALLOW_THREADS
    }
    for (const Parameter &p : c.params) { /* autograd has to learn that the parameters changed */
        if (refused || !p.present) continue;
        p.held.impl->bump_version();
        if (p.spec) impl_of(p.held.owner)->bump_version();
    }
    for (TensorImpl *&grad : c.grads) {
        if (grad) c10::raw::intrusive_ptr::decref(grad);
        grad = nullptr;
    }
    return refused;
}

bool count_threads(Content &c) {
    if (c.most_threads <= 1) return true;
    PyObject *count = PyObject_CallNoArgs(c.thread_count);
    if (!count) return false;
    *c.threads = std::min<int64_t>(c.most_threads, PyLong_AsLongLong(count));
    Py_DECREF(count);
    return !PyErr_Occurred();
}

/* C++'s exceptions, which torch throws where memory cannot be had, mean "look closer". */
Answer compare_all(Content *c, PyObject *optimizer) {
    if (!c) return OTHERWISE;
    try {
        const Answer answer = compare(*c, optimizer);
        return answer != AS_BEFORE || count_threads(*c) ? answer : OTHERWISE;
    } catch (const std::exception &) {
        return OTHERWISE;
    }
}

/* step(optimizer): True for a step; False, and nothing done, where something is not as before; None where one watches. */
PyObject *step(PyObject *self, PyObject *optimizer) {
    Content *c = reinterpret_cast<Guard *>(self)->content;
    const Answer answer = compare_all(c, optimizer);
    if (PyErr_Occurred()) return nullptr;
    if (answer == WATCHED) Py_RETURN_NONE;
    if (answer == OTHERWISE) Py_RETURN_FALSE;
    take_step(*c, c->run, c->table);
    Py_RETURN_TRUE;
}

/* clipped_step(optimizer, run, job, grads): as step, by another function and job; the gradients' pointers go to `grads`,
 * too, and a step that was taken lets the gradients go. None: look closer; else what `run` returned. */
PyObject *clipped_step(PyObject *self, PyObject *args) {
    Content *c = reinterpret_cast<Guard *>(self)->content;
    PyObject *optimizer;
    unsigned long long run, job, grads;
    if (!PyArg_ParseTuple(args, "OKKK", &optimizer, &run, &job, &grads)) return nullptr;
    const Answer answer = compare_all(c, optimizer);
    if (PyErr_Occurred()) return nullptr;
    if (answer != AS_BEFORE) Py_RETURN_NONE;
    size_t present = 0;
    for (const Parameter &p : c->params) present += p.present;
    std::memcpy(reinterpret_cast<void *>(grads), c->grad, present * sizeof(void *));
    const int refused = take_step(*c, reinterpret_cast<int (*)(const void *)>(run), reinterpret_cast<const void *>(job));
    if (!refused)
        for (const Parameter &p : c->params)
            if (p.present) drop_grad(impl_of(p.held.owner));
    return PyLong_FromLong(refused);
}

int traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Content *c = reinterpret_cast<Guard *>(self)->content;
    if (!c) return 0;
    Py_VISIT(c->keep);
    Py_VISIT(c->prepared);
    for (PyObject *held : c->settings) Py_VISIT(held);
    return 0;
}

int clear(PyObject *self) {
    Content *c = reinterpret_cast<Guard *>(self)->content;
    reinterpret_cast<Guard *>(self)->content = nullptr;
    if (!c) return 0;
    for (PyObject *held : c->settings) Py_XDECREF(held);
    for (PyObject *held : {c->keep, c->prepared, c->names, c->hooks, c->compiler, c->thread_count}) Py_XDECREF(held);
    delete c;
    return 0;
}

void dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Where the objects of a class have this one of its __slots__; 0 where it is not one. */
Py_ssize_t slot_of(PyObject *described) {
    if (!Py_IS_TYPE(described, &PyMemberDescr_Type)) return 0;
    const PyMemberDef *member = reinterpret_cast<PyMemberDescrObject *>(described)->d_member;
    return member->type == T_OBJECT_EX ? member->offset : 0;
}

/* The object's tensor, if it is where torch said; its data pointer likewise. */
bool hold(const Content &c, Held &held, PyObject *owner, PyObject *object, PyObject *address, PyObject *data) {
    TensorImpl *impl = static_cast<TensorImpl *>(PyLong_AsVoidPtr(address));
    if (PyErr_Occurred() || impl_of(object) != impl) return false;
    if (owner != object && (Py_TYPE(owner) != c.sharded || slot(owner, c.local_part) != object)) return false;
    if (!impl->has_storage() || PyLong_AsVoidPtr(data) != impl->mutable_data() || PyErr_Occurred()) return false;
    const c10::StorageImpl *storage = impl->unsafe_storage().unsafeGetStorageImpl();
    const at::DataPtr &numbers = storage->data_ptr();
    held = {owner, object, impl, storage, numbers.get(), numbers.get_deleter(), impl->storage_offset(), impl->numel()};
    return true;
}

/* Reads what guard.py hands over; false if something is not as this file takes it to be. */
bool fill(Content &c, PyObject *kept) {
    PyObject *params, *locals, *addresses, *present, *sizes, *entries, *values, *value_locals, *value_addresses, *pointers;
    PyObject *every, *settings, *kind, *sharded, *local_part, *spec, *group_places;
    unsigned long long run, table, grad, rates, threads, most;
    int floating;
    if (!PyArg_ParseTuple(kept, "O!O!O!O!O!O!O!O!O!O!O!O!OOOOOOOOOpKKKKKKO!n", &PyList_Type, &params, &PyList_Type, &locals,
                          &PyList_Type, &addresses, &PyList_Type, &present, &PyList_Type, &sizes, &PyList_Type, &entries,
                          &PyList_Type, &values, &PyList_Type, &value_locals, &PyList_Type, &value_addresses, &PyList_Type,
                          &pointers, &PyList_Type, &every, &PyList_Type, &settings, &c.names, &c.prepared, &c.hooks,
                          &c.compiler, &c.thread_count, &kind, &sharded, &local_part, &spec, &floating, &run, &table,
                          &grad, &rates, &threads, &most, &PyList_Type, &group_places, &c.all_groups)) {
        c.names = c.prepared = c.hooks = c.compiler = c.thread_count = nullptr;
        return false;
    }
    c.keep = Py_NewRef(kept);
    Py_INCREF(c.names), Py_INCREF(c.prepared), Py_INCREF(c.hooks), Py_INCREF(c.compiler), Py_INCREF(c.thread_count);
    c.tensor = reinterpret_cast<PyTypeObject *>(kind);
    if (sharded != Py_None) {
        c.sharded = reinterpret_cast<PyTypeObject *>(sharded);
        c.local_part = slot_of(local_part), c.spec = slot_of(spec);
        if (!c.local_part || !c.spec) return false;
    }
    c.floating = floating;
    c.run = reinterpret_cast<int (*)(const void *)>(run);
    c.table = reinterpret_cast<const void *>(table);
    c.grad = reinterpret_cast<void **>(grad);
    c.rates = reinterpret_cast<double *>(rates);
    c.threads = reinterpret_cast<int64_t *>(threads);
    c.most_threads = static_cast<int64_t>(most);
    if (!PyTuple_Check(c.names)) return false;
    for (c.rate = 0; c.rate < PyTuple_GET_SIZE(c.names); c.rate++)
        if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(c.names, c.rate), "lr") == 0) break;
    size_t first = 0;
    if (PyList_GET_SIZE(group_places) != PyList_GET_SIZE(sizes)) return false;
    for (Py_ssize_t g = 0; g < PyList_GET_SIZE(sizes); g++) {
        const size_t size = PyLong_AsSize_t(PyList_GET_ITEM(sizes, g));
        const Py_ssize_t place = PyLong_AsSsize_t(PyList_GET_ITEM(group_places, g));
        if (place < 0 || place >= c.all_groups) return false;
        c.groups.push_back({first, first + size, place});
        first += size;
    }
    c.settings.assign(c.groups.size() * PyTuple_GET_SIZE(c.names), nullptr);
    if (PyErr_Occurred() || !remember(c, settings)) return false;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(every); i++) c.entries.push_back(PyList_GET_ITEM(every, i));
    const Py_ssize_t count = PyList_GET_SIZE(params), covered = PyList_GET_SIZE(entries), states = PyList_GET_SIZE(values);
    if (static_cast<size_t>(count) != first || PyList_GET_SIZE(locals) != covered || PyList_GET_SIZE(addresses) != covered ||
        PyList_GET_SIZE(present) != count || PyList_GET_SIZE(value_locals) != states ||
        PyList_GET_SIZE(value_addresses) != states || PyList_GET_SIZE(pointers) < covered + states)
        return false;
    for (Py_ssize_t i = 0; i < states; i++) {
        c.values.emplace_back();
        if (!hold(c, c.values.back(), PyList_GET_ITEM(values, i), PyList_GET_ITEM(value_locals, i),
                  PyList_GET_ITEM(value_addresses, i), PyList_GET_ITEM(pointers, covered + i)))
            return false;
    }
    size_t at = 0;
    for (Py_ssize_t i = 0, k = 0; i < count; i++) {
        PyObject *owner = PyList_GET_ITEM(params, i);
        c.params.emplace_back();
        Parameter &p = c.params.back();
        p.held.owner = p.held.object = owner, p.held.impl = impl_of(owner); /* looked into only where one is held, below */
        p.present = PyList_GET_ITEM(present, i) == Py_True;
        if (!p.present) continue;
        if (k == covered || !hold(c, p.held, owner, PyList_GET_ITEM(locals, k), PyList_GET_ITEM(addresses, k),
                                  PyList_GET_ITEM(pointers, k)))
            return false;
        TensorImpl *impl = p.held.impl, *g = grad_of(impl_of(owner));
        if (!g) return false;
        p.meta = impl_of(owner)->autograd_meta();
        if (owner != p.held.object) {
            PyObject *whole = g->pyobj_slot()->load_pyobj();
            p.spec = whole && Py_TYPE(whole) == c.sharded ? slot(whole, c.spec) : nullptr;
            if (!p.spec || !(g = local_grad(c, p, g)) || PyList_Append(locals, p.spec)) return false; /* kept alive */
        }
        c.numbers += p.held.numel;
        PyObject *entry = PyList_GET_ITEM(entries, k++);
        /* VersionCounter: what a version is counted in, to be asked for ahead; an address that is wrong does no harm. */
        std::memcpy(&p.counter, &impl->version_counter(), sizeof p.counter);
        p.keys = impl->key_set(), p.grad_keys = g->key_set();
        p.kind = Py_TYPE(p.held.object);
        if (k == 1) c.dtype = impl->dtype(); /* of all */
        p.rank = impl->dim(), p.layout = c.layouts.size();
        for (const auto &numbers : {impl->sizes(), impl->strides(), g->strides()})
            c.layouts.insert(c.layouts.end(), numbers.begin(), numbers.end());
        const int64_t *sizes_of = c.layouts.data() + p.layout;
        if (!alike(impl, p.keys, c.dtype, p.rank, sizes_of, sizes_of + p.rank)) return false;
        if (!alike(g, p.grad_keys, c.dtype, p.rank, sizes_of, sizes_of + 2 * p.rank)) return false;
        if (!PyDict_CheckExact(entry)) return false;
        p.first = at, p.last = at += PyDict_GET_SIZE(entry);
        p.entry = entry, p.entry_keys = reinterpret_cast<PyDictObject *>(entry)->ma_keys;
    }
    c.grads.assign(c.params.size(), nullptr);
    return at == c.values.size();
}

PyObject *make(PyTypeObject *type, PyObject *args, PyObject *) {
    PyObject *self = type->tp_alloc(type, 0);
    if (!self) return nullptr;
    Content *c = reinterpret_cast<Guard *>(self)->content = new Content;
    bool filled = false;
    try {
        filled = fill(*c, args);
    } catch (const std::exception &) { /* no memory, or a tensor without any */
    }
    if (!filled) {
        Py_DECREF(self);
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "these tensors are not laid out as expected");
        return nullptr;
    }
    return self;
}

PyMethodDef METHODS[] = {{"step", step, METH_O, nullptr}, {"clipped_step", clipped_step, METH_VARARGS, nullptr}, {}};
PyType_Slot SLOTS[] = {
    {Py_tp_new, reinterpret_cast<void *>(make)},         {Py_tp_dealloc, reinterpret_cast<void *>(dealloc)},
    {Py_tp_traverse, reinterpret_cast<void *>(traverse)}, {Py_tp_clear, reinterpret_cast<void *>(clear)},
    {Py_tp_methods, METHODS},                            {}};
PyType_Spec SPEC = {"lrdiff_guard.Guard", sizeof(Guard), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, SLOTS};
PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "lrdiff_guard", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};

} // namespace

PyMODINIT_FUNC PyInit_lrdiff_guard() {
    PARAMS = word("params"), GROUPS = word("param_groups"), STATE = word("state"), FOUND_INF = word("found_inf");
    BEFORE = word("_optimizer_step_pre_hooks"), AFTER = word("_optimizer_step_post_hooks");
    BEFORE_ALL = word("_global_optimizer_pre_hooks"), AFTER_ALL = word("_global_optimizer_post_hooks");
    RETUNE = word("retune"), SETTINGS = word("settings"), COMPILING = word("_is_compiling_flag");
    PyObject *module = PyModule_Create(&MODULE), *type = PyType_FromSpec(&SPEC);
    if (!module || !type || PyModule_AddObject(module, "Guard", type)) return nullptr;
    return module;
}
