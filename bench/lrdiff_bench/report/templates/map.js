// The explorer of a map: a cursor with a read-out, cuts that follow it, zoom, and a second map under the same cursor.
{
  // cividis, at nine places: even to the eye, and to one that lacks red or green
  const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#fee838"]
    .map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
  // Edges and type in the canvas's own dots, the same size on every screen
  const frame = (canvas) => {
    const unit = canvas.width / (canvas.clientWidth || 450);
    return { unit, left: 56 * unit, top: 8 * unit, right: canvas.width - 10 * unit, bottom: canvas.height - 38 * unit };
  };
  const log = Math.log10;
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const number = (v) => (v === null ? "diverged" : String(Number(v.toPrecision(5))));

  class RateMap {
    constructor(data) {
      Object.assign(this, data);
      for (const axis of [this.x, this.y]) {
        const v = axis.values;
        axis.low = log(v[0]);
        axis.step = (log(v.at(-1)) - axis.low) / (v.length - 1);
        axis.ends = [axis.low - axis.step / 2, log(v.at(-1)) + axis.step / 2];
      }
      const fine = this.values.flat().filter((v, i) => v !== null && !this.diverged.flat()[i]).sort((a, b) => a - b);
      this.low = fine[0];
      this.high = Math.max(fine[Math.floor(0.95 * (fine.length - 1))], this.low * 1.001);
    }
    // Index of the cell at a place (log10 of both values), or null outside
    cell(x, y) {
      const i = Math.round((x - this.x.low) / this.x.step), j = Math.round((y - this.y.low) / this.y.step);
      return i < 0 || j < 0 || i >= this.x.values.length || j >= this.y.values.length ? null : [i, j];
    }
    at([i, j]) { return this.diverged[j][i] ? null : this.values[j][i]; }
    colour(value) {
      if (value === null) return null;
      const share = this.low > 0 ? Math.log(value / this.low) / Math.log(this.high / this.low) : (value - this.low) / (this.high - this.low);
      const at = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1), k = Math.min(Math.floor(at), CIVIDIS.length - 2);
      return CIVIDIS[k].map((c, n) => Math.round(c + (at - k) * (CIVIDIS[k + 1][n] - c)));
    }
    draw(canvas, view, cursor) {
      const pen = canvas.getContext("2d"), { unit, left, top, right, bottom } = frame(canvas);
      const px = (x) => left + ((x - view[0]) / (view[1] - view[0])) * (right - left);
      const py = (y) => bottom - ((y - view[2]) / (view[3] - view[2])) * (bottom - top);
      pen.clearRect(0, 0, canvas.width, canvas.height);
      pen.save();
      pen.beginPath(); pen.rect(left, top, right - left, bottom - top); pen.clip();
      pen.fillStyle = css("--sunken"); pen.fillRect(left, top, right - left, bottom - top);
      for (let j = 0; j < this.y.values.length; j++) for (let i = 0; i < this.x.values.length; i++) {
        const x = px(this.x.low + (i - 0.5) * this.x.step), y = py(this.y.low + (j + 0.5) * this.y.step);
        const w = px(this.x.low + (i + 0.5) * this.x.step) - x, h = py(this.y.low + (j - 0.5) * this.y.step) - y;
        if (x > canvas.width || x + w < left || y > canvas.height || y + h < 0) continue;
        const colour = this.colour(this.at([i, j]));
        if (colour) { pen.fillStyle = `rgb(${colour})`; pen.fillRect(x, y, w + 0.6, h + 0.6); continue; }
        pen.strokeStyle = css("--muted"); pen.lineWidth = 1; // a cross: readable in grey
        pen.beginPath(); pen.moveTo(x, y); pen.lineTo(x + w, y + h); pen.moveTo(x + w, y); pen.lineTo(x, y + h); pen.stroke();
      }
      const path = (colour, size, dashes) => {
        pen.strokeStyle = colour; pen.lineWidth = size; pen.setLineDash(dashes);
        pen.beginPath();
        this.single.x.forEach((x, k) => pen[k ? "lineTo" : "moveTo"](px(log(x)), py(log(this.single.y[k]))));
        pen.stroke(); pen.setLineDash([]);
      };
      if (this.single.x.length) { path("#000", 2.5 * unit, [7 * unit, 5 * unit]); path("#fff", 1.2 * unit, [7 * unit, 5 * unit]); }
      for (const [name, [x, y]] of Object.entries(this.marks)) {
        pen.beginPath();
        const [a, b] = [px(log(x)), py(log(y))];
        if (name === "best single") pen.arc(a, b, 4.5 * unit, 0, 7);
        else if (name === "best pair") for (let k = 0; k < 10; k++) { const r = (k % 2 ? 3.2 : 8) * unit, t = (Math.PI * k) / 5; pen.lineTo(a + r * Math.sin(t), b - r * Math.cos(t)); }
        else pen.rect(a - 4 * unit, b - 4 * unit, 8 * unit, 8 * unit);
        pen.closePath(); pen.fillStyle = name === "as configured" ? "#000" : "#fff"; pen.fill();
        pen.strokeStyle = name === "as configured" ? "#fff" : "#000"; pen.lineWidth = unit; pen.stroke();
      }
      for (const [colour, size] of [["#000", 2 * unit], ["#fff", 0.8 * unit]]) {
        pen.strokeStyle = colour; pen.lineWidth = size; pen.beginPath();
        pen.moveTo(px(cursor[0]), top); pen.lineTo(px(cursor[0]), bottom);
        pen.moveTo(left, py(cursor[1])); pen.lineTo(right, py(cursor[1])); pen.stroke();
      }
      pen.restore();
      axes(pen, canvas, view, px, py, this.x.name, this.y.name, true);
    }
  }

  function ticks(low, high, logarithmic) {
    if (!logarithmic) {
      const rough = (high - low) / 5, power = 10 ** Math.floor(log(rough)), step = [1, 2, 5, 10].find((f) => f * power >= rough * 0.999) * power;
      const found = [];
      for (let v = Math.ceil(low / step) * step; v <= high; v += step) found.push([v, v]);
      return found;
    }
    const found = [];
    for (let p = Math.floor(low); p <= Math.ceil(high); p++) for (const f of high - low < 2 ? [1, 2, 5] : [1]) {
      const at = p + log(f);
      if (at >= low && at <= high) found.push([at, 10 ** at]);
    }
    return found;
  }

  function axes(pen, canvas, view, px, py, xName, yName, logY) {
    const { unit, left, top, right, bottom } = frame(canvas);
    pen.font = `${12.5 * unit}px system-ui, sans-serif`; pen.fillStyle = css("--muted"); pen.strokeStyle = css("--muted"); pen.lineWidth = unit;
    pen.strokeRect(left, top, right - left, bottom - top);
    pen.textAlign = "center";
    for (const [at, v] of ticks(view[0], view[1], true)) pen.fillText(number(v), px(at), bottom + 15 * unit);
    pen.fillText(xName, (left + right) / 2, canvas.height - 5 * unit);
    pen.textAlign = "right";
    for (const [at, v] of ticks(view[2], view[3], logY)) pen.fillText(number(v), left - 5 * unit, py(at) + 4 * unit);
    pen.save(); pen.translate(12 * unit, (top + bottom) / 2); pen.rotate(-Math.PI / 2); pen.textAlign = "center"; pen.fillText(yName, 0, 0); pen.restore();
  }

  const explorers = [];
  class Explorer {
    constructor(root) {
      this.root = root;
      this.map = new RateMap(JSON.parse(root.querySelector("script").textContent));
      const views = root.querySelector(".views");
      [this.canvas, this.cuts, this.second] = views.querySelectorAll("canvas");
      root.querySelector(".key-line").textContent = `Colours: ${number(this.map.low)} dark blue to ${number(this.map.high)} and more yellow; crosses: diverged; `
        + "dashes: one rate for both; star: best pair; circle: best single rate; square: as configured.";
      this.said = root.querySelector("output");
      this.other = null;
      for (const part of [views, root.querySelector(".tools")]) part.hidden = false;
      if (!this.map.marks["best single"]) root.querySelector('[data-do="best single"]').remove();
      root.querySelectorAll("[data-do]").forEach((button) => button.addEventListener("click", () => this.act(button.dataset.do)));
      const pointed = (event) => {
        const box = this.canvas.getBoundingClientRect(), v = this.view, { unit, left, top, right, bottom } = frame(this.canvas);
        const x = (event.clientX - box.left) * unit, y = (event.clientY - box.top) * unit;
        this.go(v[0] + ((x - left) / (right - left)) * (v[1] - v[0]), v[3] - ((y - top) / (bottom - top)) * (v[3] - v[2]));
      };
      this.canvas.addEventListener("pointermove", pointed);
      this.canvas.addEventListener("pointerdown", pointed);
      this.canvas.addEventListener("dblclick", () => this.act("in"));
      this.canvas.addEventListener("keydown", (event) => this.key(event));
      this.act("all"); this.act("best pair");
      addEventListener("resize", () => this.draw());
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    }
    key(event) {
      const by = event.shiftKey ? 5 : 1;
      const moves = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, by], ArrowDown: [0, -by] };
      const acts = { "+": "in", "=": "in", "-": "out", Home: "best pair", "0": "all" };
      if (moves[event.key]) { const [i, j] = moves[event.key]; this.go(this.cursor[0] + i * this.map.x.step, this.cursor[1] + j * this.map.y.step); }
      else if (acts[event.key]) this.act(acts[event.key]);
      else return;
      event.preventDefault();
    }
    act(what) {
      const { x, y, marks } = this.map;
      const whole = [...x.ends, ...y.ends];
      if (marks[what]) { this.go(log(marks[what][0]), log(marks[what][1])); return; }
      if (what === "all") this.view = whole;
      else {
        const factor = what === "in" ? 0.5 : 2, [a, b] = this.cursor;
        this.view = this.view.map((end, k) => (k < 2 ? a : b) + factor * (end - (k < 2 ? a : b)));
        this.view = this.view.map((end, k) => (k % 2 ? Math.min(end, whole[k]) : Math.max(end, whole[k])));
      }
      if (this.cursor) this.draw();
    }
    go(x, y) { // to the nearest cell
      const i = Math.min(Math.max(Math.round((x - this.map.x.low) / this.map.x.step), 0), this.map.x.values.length - 1);
      const j = Math.min(Math.max(Math.round((y - this.map.y.low) / this.map.y.step), 0), this.map.y.values.length - 1);
      this.at = [i, j];
      this.cursor = [this.map.x.low + i * this.map.x.step, this.map.y.low + j * this.map.y.step];
      this.draw();
    }
    draw() {
      const { map, at: [i, j] } = this;
      map.draw(this.canvas, this.view, this.cursor);
      const value = map.at(this.at);
      const lines = [`${map.x.name}: ${number(map.x.values[i])}`, `${map.y.name}: ${number(map.y.values[j])}`, `median ${map.loss}: ${number(value)}`];
      if (this.other) {
        const cell = this.other.cell(...this.cursor), there = cell && this.other.at(cell);
        lines.push(cell ? `in the other map: ${number(there)}${value !== null && there !== null ? `, ${number(there - value)} apart` : ""}` : "outside of the other map");
        this.other.draw(this.second, this.view, this.cursor);
      }
      this.said.replaceChildren(...lines.flatMap((line, k) => (k ? [document.createElement("br"), line] : [line])));
      Object.assign(this.said.dataset, { x: map.x.values[i], y: map.y.values[j], loss: value });
      this.drawCuts();
    }
    drawCuts() {
      const { map, cuts, at: [i, j] } = this, pen = cuts.getContext("2d"), { unit, left, top, right, bottom } = frame(cuts);
      const series = [
        [`along ${map.x.name}`, "--layer1", [], map.x.values, map.x.values.map((_, k) => map.at([k, j])), map.x.values[i]],
        [`along ${map.y.name}`, "--layer2", [6, 3], map.y.values, map.y.values.map((_, k) => map.at([i, k])), map.y.values[j]],
      ];
      if (map.single.rates.length) series.push(["one rate for both", "--single", [1.5, 2.5], map.single.rates, map.single.values, null]);
      const xs = series.flatMap((s) => s[3]).map(log);
      const most = map.high * 1.15;
      const view = [Math.min(...xs), Math.max(...xs), map.low - 0.04 * (most - map.low), most];
      const px = (x) => left + ((x - view[0]) / (view[1] - view[0])) * (right - left);
      const py = (y) => bottom - ((y - view[2]) / (view[3] - view[2])) * (bottom - top);
      pen.clearRect(0, 0, cuts.width, cuts.height);
      pen.save(); pen.beginPath(); pen.rect(left, top, right - left, bottom - top); pen.clip();
      series.forEach(([, colour, dashes, x, y, marked]) => {
        pen.strokeStyle = pen.fillStyle = css(colour); pen.lineWidth = 2 * unit; pen.setLineDash(dashes.map((d) => d * unit)); pen.beginPath();
        let down = false;
        x.forEach((v, k) => { if (y[k] === null) { down = false; return; } pen[down ? "lineTo" : "moveTo"](px(log(v)), py(y[k])); down = true; });
        pen.stroke(); pen.setLineDash([]);
        const value = map.at([i, j]);
        if (marked !== null && value !== null) { pen.beginPath(); pen.arc(px(log(marked)), py(value), 4 * unit, 0, 7); pen.fill(); }
      });
      pen.restore();
      axes(pen, cuts, view, px, py, "learning rate", map.loss, false);
      pen.textAlign = "left";
      series.forEach(([name, colour, dashes], k) => {
        const y = top + (17 + 17 * k) * unit;
        pen.strokeStyle = css(colour); pen.lineWidth = 2 * unit; pen.setLineDash(dashes.map((d) => d * unit));
        pen.beginPath(); pen.moveTo(left + 8 * unit, y - 4 * unit); pen.lineTo(left + 36 * unit, y - 4 * unit); pen.stroke(); pen.setLineDash([]);
        pen.fillStyle = css("--ink"); pen.fillText(name, left + 42 * unit, y);
      });
    }
  }
  for (const root of document.querySelectorAll(".explorer")) explorers.push(new Explorer(root));
  if (explorers.length > 1) for (const one of explorers) {
    const label = one.root.querySelector("[data-compare]"), choice = label.querySelector("select");
    label.hidden = false;
    choice.append(new Option("no other map", ""));
    explorers.forEach((other, k) => { if (other !== one) choice.append(new Option(`${k + 1}: ${other.map.title}`, k)); });
    choice.addEventListener("change", () => {
      one.other = choice.value === "" ? null : explorers[choice.value].map;
      const part = one.root.querySelector(".other");
      part.hidden = one.other === null;
      part.querySelector("p").textContent = one.other ? `${one.other.title}: under the same cursor` : "";
      one.draw();
    });
  }
}
