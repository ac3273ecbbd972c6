// What is said of numbers: remarks, intervals, verdicts, and the answers to the three questions. No page here.

/** Three digits, as losses and gains are written. */
export function number(value) {
  if (value < 0) return `\u2212${number(-value)}`;
  if (value === Infinity) return "infinite";
  if (!Number.isFinite(value)) return "not finite";
  if (value !== 0 && (value < 1e-4 || value >= 1e5)) return value.toExponential(1).replace("e-", "e\u2212").replace("e+", "e");
  return value >= 1000 ? value.toFixed(0) : value.toPrecision(3);
}

export const signed = (value) => (value > 0 ? "+" : "") + number(value);
export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)}\u00a0%`;
/** A rate, without zeros that say nothing. */
export const rate = (value) => String(Number(value.toPrecision(3)));
export const interval = ([, low, high]) => `[${signed(low)}, ${signed(high)}]`;
/** Numbers of the stored studies have the digits that their page gives them. */
const stored = (value) => String(value).replaceAll("-", "\u2212");
export const storedGain = (gain) => {
  const [at, low, high] = gain.map((value) => (value > 0 ? "+" : "") + stored(value));
  return `${at} [${low}, ${high}]`;
};
const capital = (words) => words[0].toUpperCase() + words.slice(1);
const list = (names) => (names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);
const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

/** What one epoch did to the validation loss, in words that follow from the two losses. */
export function remark(before, after) {
  if (!Number.isFinite(after)) return "not finite: diverged";
  const fall = (before - after) / before;
  const moved = `${fall >= 0 ? "fell" : "rose"} ${(100 * Math.abs(fall)).toFixed(1)} %`;
  if (fall > 0.1) return `${moved}: learning patterns`;
  if (fall > 0.03) return `${moved}: steady`;
  if (fall > 0.01) return `${moved}: converging`;
  return fall >= -0.01 ? `${moved}: stable` : `${moved}: getting worse`;
}

/**
 * Median with its distribution-free interval, [median, low, high]: two of the values themselves.
 *
 * The level is exact and 0.95 or more from six values on; the twin of lrdiff_bench.stats.intervals.median_interval.
 */
export function medianInterval(values, level = 0.95) {
  const sorted = Float64Array.from(values).sort(), n = sorted.length;
  const middle = n % 2 ? sorted[(n - 1) / 2] : sorted[n / 2 - 1] === sorted[n / 2]
    ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
  // Outside of the k-th smallest and largest lies the median with probability 2 P(Binomial(n, 1/2) < k).
  let k = 0, below = 0, mass = 0.5 ** n;
  while (k < Math.floor(n / 2) && 2 * (below + mass) <= 1 - level) {
    below += mass;
    mass *= (n - k) / (k + 1);
    k++;
  }
  const edge = Math.max(k - 1, 0);
  return [middle, sorted[edge], sorted[n - 1 - edge]];
}

const FEWEST_SEEDS = 12; // for a verdict, as for a map

/** HELPS, HURTS, NO DIFFERENCE or INCONCLUSIVE: where the interval of a gain lies. */
export function verdict([, low, high], smallest, seeds) {
  if (seeds < FEWEST_SEEDS) return "INCONCLUSIVE";
  if (low > smallest) return "HELPS";
  if (high < -smallest) return "HURTS";
  return low >= -smallest && high <= smallest ? "NO DIFFERENCE" : "INCONCLUSIVE";
}

/** Epochs until a loss is at or below the target; Infinity where it never is. */
export function epochsTo(losses, target) {
  const found = losses.findIndex((loss) => loss <= target);
  return found < 0 ? Infinity : found;
}

/**
 * Pairs against single rates, seed by seed.
 *
 * Each of `pairs` and `singles`: {test, losses}, the final test loss and the validation loss by epoch. A gain is
 * positive where the pair is better; earlier is how many epochs sooner the pair comes within 5 % of the loss that the
 * single rate ends with.
 */
export function compare(pairs, singles, smallest) {
  const finite = (loss) => (Number.isFinite(loss) ? loss : Infinity);
  const minus = (a, b) => (a === b ? 0 : a - b);
  const gains = pairs.map((pair, i) => minus(finite(singles[i].test), finite(pair.test)));
  const targets = singles.map((single) => 1.05 * single.losses.at(-1));
  const earlier = pairs.map((pair, i) =>
    minus(epochsTo(singles[i].losses, targets[i]), epochsTo(pair.losses, targets[i])));
  const gain = medianInterval(gains);
  return {
    gains, gain, verdict: verdict(gain, smallest, gains.length), earlier, sooner: medianInterval(earlier),
    better: gains.filter((g) => g > 0).length, worse: gains.filter((g) => g < 0).length,
    faster: earlier.filter((e) => e > 0).length, slower: earlier.filter((e) => e < 0).length,
  };
}

/** One sentence on how the reader's pair ends beside the single rate, on the seed that is shown. */
export function ending(run, single, smallest) {
  const own = run.epochs.at(-1).validation, other = single.epochs.at(-1).validation;
  const gain = other.loss - own.loss;
  const beside = `One rate for both layers, ${rate(single.rates[0])}, ends at ${number(other.loss)}.`;
  if (!Number.isFinite(own.loss)) return `This training diverged: its loss is not finite. ${beside}`;
  const first = run.epochs[0].validation.loss;
  const start = own.loss >= first ? `The loss ends no lower than it began (${number(first)}). ` : "";
  const end = `After ${run.epochs.length - 1} epochs the validation loss is ${number(own.loss)}, ` +
    `the accuracy ${percent(own.accuracy)}. `;
  const size = Math.abs(gain) < smallest ? `The difference of ${number(Math.abs(gain))} is below ${smallest}, the ` +
    "smallest that matters." : `On this seed that is ${number(Math.abs(gain))} ${gain > 0 ? "better" : "worse"}.`;
  return `${start}${end}${beside} ${size}`;
}

/** What a map says: shares of pairs that end better and worse than the best single rate of the same map. */
export function mapFacts(losses, size, smallest) {
  const finite = Float64Array.from(losses, (loss) => (Number.isFinite(loss) ? loss : Infinity));
  const diagonal = Array.from({ length: size }, (_, i) => finite[i * size + i]);
  const single = diagonal.indexOf(Math.min(...diagonal)), best = finite.indexOf(finite.reduce((a, b) => Math.min(a, b)));
  const than = (test) => finite.reduce((sum, loss) => sum + (test(diagonal[single] - loss) ? 1 : 0), 0) / finite.length;
  return {
    single, best: [best % size, Math.floor(best / size)], singleLoss: diagonal[single], bestLoss: finite[best],
    better: than((gain) => gain > smallest), worse: than((gain) => gain < -smallest),
  };
}

/** The same in words; chance is the loss that grey begins at. */
export function mapWords(facts, axis, smallest, chance) {
  return `${percent(facts.better)} of the pairs end more than ${smallest} below the best single rate of this map, ` +
    `${rate(axis[facts.single])} (loss ${number(facts.singleLoss)}); the best pair ends at ${number(facts.bestLoss)}. ` +
    `Grey is worse than always answering with the share of classes (${number(chance)}).`;
}

/** How the cells of two maps differ: median and largest distance, relative to losses above 1, and the share that is close. */
export function mapDistance(here, there, close = 1e-4) {
  const distances = Float64Array.from(here, (loss, i) =>
    Object.is(loss, there[i]) ? 0 : Math.abs(loss - there[i]) / Math.max(1, Math.abs(there[i]))).sort();
  const share = distances.filter((d) => d <= close).length / distances.length;
  return { median: distances[distances.length >> 1], largest: distances.at(-1), close, share };
}

/** How far the page is from Python; far: the distances, and maps [here, there] where both are complete. */
export function distanceWords(far) {
  const first = `With the example’s rates (${far.rates.map(rate).join(" and ")}) on seed ${far.seed}, the losses of all ` +
    `${far.epochs} epochs differ by at most ${number(far.losses)} from Python’s, the weights by ${number(far.weights)}, ` +
    `the probabilities of ${far.rows} test rows by ${number(far.answers)}.`;
  if (!far.maps) return first;
  const cells = mapDistance(...far.maps);
  return `${first} Of the map’s ${far.maps[0].length} cells, ${percent(cells.share)} are within ${cells.close} of lrdiff map ` +
    `(the median cell differs by ${number(cells.median)}). The farthest differs by ${number(cells.largest)}: at such rates ` +
    "rounding decides where a training ends.";
}

/** The gain on all seeds in words; tuned: how the single rate was chosen. */
export function gainWords({ gains, gain }, tuned) {
  const [first, last] = tuned.seeds;
  return `Gain of your pair over one rate, in nats of test loss, on each of ${gains.length} seeds: median ` +
    `${signed(gain[0])} ${interval(gain)}. The single rate ${rate(tuned.single)} was the best of ${tuned.amongSingle} on ` +
    `seeds ${first} to ${last}, which this page does not show.`;
}

const ENDS = {
  HELPS: "Yes, this pair does.", HURTS: "No, this pair ends worse.",
  "NO DIFFERENCE": "No: this pair ends where one rate ends.", INCONCLUSIVE: "That is not shown for this pair.",
};

/** The stored studies by verdict: {HELPS: [...], ...}. */
export function byVerdict(studies) {
  const found = {};
  for (const study of studies) (found[study.verdict.split(" ON ")[0].split(" BUT ")[0]] ??= []).push(study);
  const words = ["HELPS", "NO DIFFERENCE", "HURTS", "INCONCLUSIVE"].filter((word) => found[word]);
  return Object.fromEntries(words.map((word) => [word, found[word]]));
}

/**
 * The three questions, each {question, answer, here: [sentences], studies: [sentences]}.
 *
 * facts: {rates, own: comparison of the reader's pair, tuned: that of the pair chosen on other seeds, tunedRates,
 * single, seeds, tried, seed, map: facts of a finished map or null, axis, studies, smallest}.
 */
export function answers(facts) {
  const { own, tuned, studies, smallest, seeds } = facts, groups = byVerdict(studies), total = studies.length;
  const helped = groups.HELPS ?? [], same = groups["NO DIFFERENCE"] ?? [], hurt = groups.HURTS ?? [];
  const open = total - helped.length - same.length - hurt.length;
  const pair = `${rate(facts.rates[0])} and ${rate(facts.rates[1])}`;
  const luck = facts.tried > 1
    ? ` You have tried ${facts.tried} pairs on seed ${facts.seed}: the best of several is partly luck.` : "";
  return [why(), faster(), better()];

  function why() {
    const here = [];
    if (facts.map) {
      const m = facts.map;
      const size = facts.axis.length, cells = size ** 2;
      here.push(`On seed ${facts.seed}, ${percent(m.better)} of the ${cells} pairs end more than ${smallest} below the best ` +
        `single rate of the map (${rate(facts.axis[m.single])}), ${percent(m.worse)} more than that above it.`);
      here.push(`The best pair of the map gains ${number(m.singleLoss - m.bestLoss)}. It was picked among ${cells}, the ` +
        `single rate among ${size}, on one seed: part of that is luck.`);
    }
    const best = facts.tunedRates.map(rate).join(" and ");
    here.push(`The pair that was best on ${facts.tunedSeeds} other seeds (${best}) ` +
      `gains ${signed(tuned.gain[0])} ${interval(tuned.gain)} on these ${seeds}: ${tuned.verdict}.`);
    const names = helped.length ? ` (${list(helped.map((s) => s.name))})` : "";
    const says = [`Different rates help on ${helped.length} of ${total} workloads${names}, ` +
      `make no difference on ${same.length}, hurt on ${hurt.length}, and the data do not decide on ${open}.`];
    const gains = helped.map((s) => `${s.title}: ${s.metric} ${stored(s.single)} with one tuned rate, ` +
      `${stored(s.differential)} with different ones (${s.scheme})`);
    if (gains.length) says.push(`Where they help: ${gains.join("; ")}.`);
    const answer = tuned.verdict === "HELPS" ? "Because they help, here as well."
      : helped.length ? `Because they help on some problems. On this one: ${tuned.verdict}.`
      : `No study shows a reason. On this problem: ${tuned.verdict}.`;
    return { question: "Why use different rates?", answer, here, studies: says };
  }

  function faster() {
    const [median, low, high] = own.sooner, level = seeds - own.faster - own.slower;
    const answer = low > 0 ? "Yes, this pair does." : high < 0 ? "No, this pair is slower."
      : low === 0 && high === 0 ? "No: this pair takes as many epochs." : "That is not shown for this pair.";
    const reach = (e) => (e === Infinity ? "only the pair gets there" : e === -Infinity ? "only the single rate gets there"
      : e === 0 ? "the same epoch" : `${count(Math.abs(e), "epoch")} ${e < 0 ? "later" : "earlier"}`);
    const here = [`${pair} come within 5 % of the single rate's final validation loss earlier than the single rate ` +
      `on ${own.faster} of ${seeds} seeds, later on ${own.slower}, in the same epoch on ${level}. ` +
      `On the median seed: ${reach(median)}.`];
    const both = studies.filter((s) => s.reached.single.steps !== null && s.reached.differential.steps !== null);
    const fewer = both.filter((s) => s.reached.differential.steps < s.reached.single.steps);
    const only = studies.filter((s) => s.reached.single.steps === null && s.reached.differential.steps !== null);
    const sure = fewer.filter((s) => s.verdict === "HELPS").length;
    const says = [`Of ${both.length} workloads where both usually reach the target, tuned different rates need fewer steps on ` +
      `${fewer.length}; of these ${fewer.length}, ${sure} ${sure === 1 ? "has" : "have"} the verdict HELPS for the final result.`];
    if (only.length) {
      says.push(`On ${only.length} more (${list(only.map((s) => s.name))}) only the different rates usually reach it.`);
    }
    const seed = studies.find((s) => s.name === "seed-adam");
    if (seed && both.includes(seed)) says.push(`This example: ${seed.reached.single.steps} steps with one tuned rate, ` +
      `${seed.reached.differential.steps} with two; where it ends: ${seed.verdict}.`);
    return { question: "Does it train faster?", answer, here, studies: says };
  }

  function better() {
    const here = [`Over ${seeds} seeds ${pair} gain ${signed(own.gain[0])} ${interval(own.gain)} nats of test loss ` +
      `on the single rate ${rate(facts.single)} (median and 95 % interval): ${own.verdict}. ` +
      `Better on ${own.better}, worse on ${own.worse}.${luck}`];
    if (seeds < FEWEST_SEEDS) here.push(`A verdict takes ${FEWEST_SEEDS} seeds or more; this page holds ${seeds}.`);
    else if (own.verdict === "INCONCLUSIVE") {
      here.push(`The interval holds differences that matter, beyond ±${smallest}, and such that do not: ${seeds} seeds do not decide.`);
    }
    const says = studies.filter((s) => s.name.startsWith("seed-")).map((s) =>
      `${capital(s.title)}: test ${s.metric} ${stored(s.untuned)} with the untuned rate 0.001, ${stored(s.single)} with one ` +
      `tuned rate, ${stored(s.differential)} with tuned different rates; gain ${storedGain(s.gain)}: ${s.verdict}.`);
    const tuning = studies.filter((s) => s.name.startsWith("seed-") &&
      Math.abs(s.untuned - s.single) > 10 * Math.abs(s.single - s.differential));
    if (tuning.length) {
      says.push(`In ${tuning.length} of these, tuning one rate moves the result more than ten times as far as splitting it does.`);
    }
    return { question: "Does it end better?", answer: ENDS[own.verdict], here, studies: says };
  }
}
