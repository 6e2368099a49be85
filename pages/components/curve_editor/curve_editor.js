/**
 * A patch-size curve to drag. The page sends `data` = {token, sizes, largest, references: [{name, sizes}], shade} with
 * sizes the noisiest step first, and hears `curve` = {token, sizes} when a point is let go or, with the keyboard, after
 * a pause. What the page sends counts only when it sends another token.
 *
 * A point taken hold of moves alone; a stroke that begins beside the points draws the curve through every step it passes.
 */

const PAUSE_MS = 700;
const MARGIN = { left: 38, right: 14, top: 12, bottom: 40 };
const SVG = "http://www.w3.org/2000/svg";
const mounted = new WeakMap();

export default function curveEditor({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".editor");
  let editor = mounted.get(root);
  if (!editor) mounted.set(root, (editor = new Editor(root)));
  editor.receive(data, setStateValue);
  return () => setTimeout(() => root.isConnected || editor.destroy());
}

function shape(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

class Editor {
  constructor(root) {
    this.root = root;
    this.part = Object.fromEntries([...root.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
    const { plot } = this.part;
    plot.addEventListener("pointerdown", (event) => this.take(event));
    plot.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) plot.addEventListener(end, () => this.release());
    plot.addEventListener("keydown", (event) => this.press(event));
    plot.addEventListener("focusin", ({ target }) => target.dataset.step && this.choose(+target.dataset.step));
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(plot);
  }

  destroy() {
    this.observer.disconnect();
    clearTimeout(this.timer);
  }

  receive(data, setStateValue) {
    this.setStateValue = setStateValue;
    Object.assign(this, { largest: data.largest, references: data.references, shade: data.shade });
    if (data.token !== this.token) {
      clearTimeout(this.timer);
      Object.assign(this, { token: data.token, sizes: [...data.sizes], chosen: Math.min(this.chosen ?? 0, data.sizes.length - 1) });
    }
    this.part.names.replaceChildren(
      ...data.references.flatMap(({ name }, i) => [Object.assign(document.createElement("i"), { className: i ? "second" : "" }), name]),
    );
    this.draw();
  }

  // -- where things are -----------------------------------------------------------------------------------------------

  get steps() {
    return this.sizes.length;
  }

  x(step) {
    const wide = this.width - MARGIN.left - MARGIN.right;
    return MARGIN.left + (wide * (step + 0.5)) / this.steps;
  }

  y(size) {
    const tall = this.height - MARGIN.top - MARGIN.bottom;
    return MARGIN.top + tall * (1 - (size - 1) / (this.largest - 1));
  }

  at({ clientX, clientY }) {
    const box = this.part.plot.getBoundingClientRect();
    const [x, y] = [clientX - box.left, clientY - box.top];
    const wide = this.width - MARGIN.left - MARGIN.right;
    const tall = this.height - MARGIN.top - MARGIN.bottom;
    const step = Math.floor(((x - MARGIN.left) / wide) * this.steps);
    const level = 1 + (1 - (y - MARGIN.top) / tall) * (this.largest - 1);
    return { x, y, step: Math.max(0, Math.min(this.steps - 1, step)), size: this.odd(level) };
  }

  odd(level) {
    return Math.max(1, Math.min(this.largest, 2 * Math.round((level - 1) / 2) + 1));
  }

  time(step) {
    return (this.steps - step) / this.steps;
  }

  // -- pointer and keys -----------------------------------------------------------------------------------------------

  take(event) {
    if (event.button) return;
    event.preventDefault();
    const { x, y, step, size } = this.at(event);
    const near = Math.hypot(this.x(step) - x, this.y(this.sizes[step]) - y) < 18;
    this.part.plot.setPointerCapture(event.pointerId);
    this.held = { step, alone: near, last: step, before: this.sizes.join() };
    this.chosen = step;
    if (!near) this.sizes[step] = size;
    this.draw();
    this.points[step].focus({ preventScroll: true });
  }

  drag(event) {
    if (!this.held) return;
    const { step, size } = this.at(event);
    if (this.held.alone) this.sizes[this.held.step] = size;
    else {
      const [from, to] = [Math.min(step, this.held.last), Math.max(step, this.held.last)];
      for (let each = from; each <= to; each++) if (each !== this.held.last || each === step) this.sizes[each] = size;
      this.held.last = step;
      this.chosen = step;
    }
    this.draw();
  }

  release() {
    if (!this.held) return;
    const changed = this.held.before !== this.sizes.join();
    this.held = null;
    this.draw();
    if (changed) this.tell();
  }

  press(event) {
    const step = this.chosen;
    const moves = { ArrowLeft: -1, ArrowRight: 1 };
    const changes = { ArrowUp: 2, ArrowDown: -2, PageUp: 6, PageDown: -6, Home: -this.largest, End: this.largest };
    if (event.key in moves) this.chosen = Math.max(0, Math.min(this.steps - 1, step + moves[event.key]));
    else if (event.key in changes) {
      const size = this.odd(this.sizes[step] + changes[event.key]);
      if (size !== this.sizes[step]) {
        this.sizes[step] = size;
        clearTimeout(this.timer);
        this.timer = setTimeout(() => this.tell(), PAUSE_MS);
      }
    } else return;
    event.preventDefault();
    event.stopPropagation();
    this.draw();
    this.points[this.chosen].focus({ preventScroll: true });
  }

  choose(step) {
    if (step === this.chosen) return;
    this.chosen = step;
    this.draw();
    this.points[step].focus({ preventScroll: true });
  }

  tell() {
    clearTimeout(this.timer);
    this.setStateValue("curve", { token: this.token, sizes: [...this.sizes] });
  }

  // -- drawing --------------------------------------------------------------------------------------------------------

  draw() {
    const { plot, said } = this.part;
    [this.width, this.height] = [plot.clientWidth, plot.clientHeight];
    if (!this.sizes?.length || !this.width) return;
    if (!this.points || this.points.length !== this.steps) this.build();
    plot.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.frame.replaceChildren(...this.axes(), ...this.references.map(({ sizes }, i) => this.line(sizes, `reference ${i ? "second" : ""}`)), this.line(this.sizes, "own"));
    this.points.forEach((point, step) => this.place(point, step));
    said.textContent = `t = ${this.time(this.chosen).toFixed(2)}: P = ${this.sizes[this.chosen]} pixels`;
  }

  build() {
    this.frame = shape("g", { "aria-hidden": "true" });
    this.points = this.sizes.map((_, step) => shape("circle", { class: "point", role: "slider", "data-step": step, "aria-valuemin": 1, "aria-orientation": "vertical" }));
    this.part.plot.replaceChildren(this.frame, ...this.points);
  }

  place(point, step) {
    const size = this.sizes[step];
    const attributes = {
      cx: this.x(step),
      cy: this.y(size),
      r: step === this.chosen ? 7.5 : 5.5,
      class: this.held?.step === step ? "point held" : "point",
      tabindex: step === this.chosen ? 0 : -1,
      "aria-label": `Patch size at t = ${this.time(step).toFixed(2)}`,
      "aria-valuemax": this.largest,
      "aria-valuenow": size,
      "aria-valuetext": `${size} pixels`,
    };
    for (const [name, value] of Object.entries(attributes)) point.setAttribute(name, value);
  }

  axes() {
    const [left, right, bottom] = [MARGIN.left, this.width - MARGIN.right, this.height - MARGIN.bottom];
    const nodes = [];
    const [time, size] = this.shade;
    if (time) {
      const first = this.steps - Math.floor(time * this.steps - 1e-9); // the first step with t below `time`
      const x = (this.x(first) + this.x(first - 1)) / 2;
      nodes.push(shape("rect", { class: "shade", x, y: this.y(size + 1), width: right - x, height: bottom - this.y(size + 1) }));
    }
    for (const tick of [1, 5, 9, 17, 25, 33]) {
      nodes.push(shape("line", { class: "grid", x1: left, x2: right, y1: this.y(tick), y2: this.y(tick) }));
      nodes.push(shape("text", { x: left - 8, y: this.y(tick) + 4, "text-anchor": "end" }, tick));
    }
    const stride = this.width < 480 ? 5 : 2;
    for (let step = 0; step < this.steps; step++)
      if (Math.round(this.time(step) * this.steps) % stride === 0)
        nodes.push(shape("text", { x: this.x(step), y: bottom + 18, "text-anchor": "middle" }, this.time(step).toFixed(1 + (stride === 5))));
    nodes.push(shape("text", { x: (left + right) / 2, y: bottom + 36, "text-anchor": "middle" }, "time t, from noise (1) to image (0)"));
    nodes.push(shape("text", { x: 12, y: (MARGIN.top + bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(MARGIN.top + bottom) / 2})` }, "P (pixels)"));
    return nodes;
  }

  line(sizes, name) {
    const points = sizes.map((size, step) => `${this.x(step)},${this.y(size)}`).join(" ");
    return shape("polyline", { class: name, points });
  }
}
