// Workers that train in the background; a job that is no longer wanted is dropped.

export class Pool {
  /** source: the worker's code; data: what lesson data holds. */
  constructor(source, data, size = Math.max(1, Math.min(navigator.hardwareConcurrency || 2, 8))) {
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const settings = { epochs: data.epochs, batchSize: data.batchSize };
    this.waiting = [];
    this.running = new Map();
    this.workers = Array.from({ length: size }, () => {
      const worker = new Worker(address);
      worker.postMessage({ problems: data.problems, settings });
      worker.onmessage = ({ data: answer }) => this.#answered(worker, answer);
      return worker;
    });
    this.idle = [...this.workers];
    this.last = 0;
  }

  /** Train; resolves with the worker's answer, or with null once `wanted()` is false. Urgent jobs go first. */
  ask(job, { urgent = false, wanted = () => true } = {}) {
    return new Promise((resolve) => {
      const entry = { job: { ...job, id: ++this.last }, resolve, wanted };
      if (urgent) this.waiting.splice(this.waiting.findIndex((e) => !e.urgent) >>> 0, 0, { ...entry, urgent });
      else this.waiting.push(entry);
      this.#next();
    });
  }

  #next() {
    while (this.idle.length && this.waiting.length) {
      const entry = this.waiting.shift();
      if (!entry.wanted()) {
        entry.resolve(null);
        continue;
      }
      const worker = this.idle.pop();
      this.running.set(entry.job.id, entry);
      worker.postMessage(entry.job);
    }
  }

  #answered(worker, answer) {
    const entry = this.running.get(answer.id);
    this.running.delete(answer.id);
    this.idle.push(worker);
    this.#next();
    entry.resolve(entry.wanted() ? answer : null);
  }
}

/** Cells of a square map from coarse to fine: [{x, y, stride}], each cell once. */
export function coarseToFine(size) {
  const cells = [], seen = new Uint8Array(size * size);
  for (let stride = 2 ** Math.floor(Math.log2(size / 4)); stride >= 1; stride /= 2) {
    for (let y = 0; y < size; y += stride) {
      for (let x = 0; x < size; x += stride) {
        if (!seen[y * size + x]) cells.push({ x, y, stride });
        seen[y * size + x] = 1;
      }
    }
  }
  return cells;
}
