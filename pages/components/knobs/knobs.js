/**
 * Concept sliders. The page sends `data` = {token, off, knobs: [{id, name, value, reach, band, collapse, works, waits}]}
 * with strengths as signed fractions of the residual norm, and hears `dials` = {token, values, off, settled}: at most
 * every 80 ms while a slider moves, and once, settled, when it is let go; and the trigger `remove`.
 *
 * Values belong to the visitor: what the page sends counts only when it sends another token (a preset, a new concept);
 * only `waits` counts always.
 */

const THROTTLE_MS = 80;
const DETENT = 0.002; // zero catches a dragged thumb this near to it
const STEP = 0.001;

// By root: when two messages come at once, Streamlit cleans a component up and calls it again on the same elements.
const mounted = new WeakMap();

export default function knobsComponent({ data, parentElement, setStateValue, setTriggerValue }) {
  const root = parentElement.querySelector(".knobs");
  let knobs = mounted.get(root);
  if (!knobs) mounted.set(root, (knobs = new Knobs(root)));
  knobs.receive(data, { setStateValue, setTriggerValue });
  return () => setTimeout(() => root.isConnected || knobs.destroy());
}

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const signed = (fraction) => `${fraction < 0 ? "−" : "+"}${Math.abs(100 * fraction).toFixed(1)} %`;
const spoken = (fraction) => `${fraction < 0 ? "minus " : ""}${Math.abs(100 * fraction).toFixed(1)} percent`;
const inside = (value, [low, high]) => value >= low - 1e-9 && value <= high + 1e-9;

class Knobs {
  constructor(root) {
    this.root = root;
    this.part = Object.fromEntries([...root.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
    this.part.master.addEventListener("click", () => this.toggle());
    this.onKey = (event) => this.hotkey(event);
    window.addEventListener("keydown", this.onKey);
  }

  destroy() {
    window.removeEventListener("keydown", this.onKey);
    clearTimeout(this.timer);
  }

  receive(data, calls) {
    Object.assign(this, calls);
    if (data.token !== this.token) this.restart(data);
    data.knobs.forEach((knob, i) => (this.knobs[i].remark.textContent = remark(knob)));
  }

  restart(data) {
    Object.assign(this, { token: data.token, off: data.off, values: {} });
    this.knobs = data.knobs.map((knob) => this.build(knob));
    this.part.list.replaceChildren(...this.knobs.map(({ node }) => node));
    this.show();
  }

  // -- one slider -----------------------------------------------------------------------------------------------------

  build(knob) {
    const { id, name, value, reach } = knob;
    this.values[id] = value;
    const output = element("output", { className: "value" });
    const remove = element("button", { type: "button", className: "remove", textContent: "×", ariaLabel: `Remove ${name}` });
    const input = element("input", { type: "range", min: -reach, max: reach, step: STEP, ariaLabel: label(knob) });
    input.value = value;
    input.addEventListener("pointerdown", () => (this.dragging = true));
    input.addEventListener("input", () => this.move(knob, input));
    input.addEventListener("change", () => {
      this.dragging = false;
      this.tell(true);
    });
    remove.addEventListener("click", () => this.setTriggerValue("remove", id));
    const head = element("div", { className: "head" }, element("span", { className: "name", textContent: name }), output, remove);
    const remark = element("p", { className: "remark" });
    const node = element("div", { className: "knob" }, head, element("div", { className: "rail" }, drawn(knob), input), remark);
    return { knob, node, input, output, remark };
  }

  move({ id }, input) {
    if (this.dragging && Math.abs(input.value) <= DETENT) input.value = 0;
    this.values[id] = Math.round(input.value / STEP) * STEP;
    this.off = false;
    this.show();
    this.tell(false);
  }

  show() {
    for (const { knob, input, output } of this.knobs) {
      const value = this.values[knob.id];
      const beyond = knob.collapse && Math.abs(value) >= knob.collapse;
      output.textContent = signed(value);
      output.className = beyond ? "value beyond" : "value";
      const where = this.off ? ", switched off" : beyond ? ", collapses" : knob.band && value && inside(value, knob.band) ? ", in the usable band" : "";
      input.setAttribute("aria-valuetext", spoken(value) + where);
    }
    this.root.dataset.off = this.off;
    this.part.master.hidden = !this.knobs.length;
    this.part.master.setAttribute("aria-pressed", this.off);
    this.part.master.lastElementChild.textContent = this.off ? "Everything is off · key 0" : "Everything off · key 0";
  }

  // -- the master switch ----------------------------------------------------------------------------------------------

  toggle() {
    if (!this.knobs?.length) return;
    this.off = !this.off;
    this.show();
    this.tell(true);
  }

  hotkey(event) {
    if (event.key !== "0" || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const target = event.composedPath()[0];
    const typing = target.isContentEditable || /^(TEXTAREA|SELECT)$/.test(target.tagName) || (target.tagName === "INPUT" && !/^(range|radio|checkbox|button)$/.test(target.type));
    if (!typing) this.toggle();
  }

  // -- telling the page -----------------------------------------------------------------------------------------------

  /** Tell at once when settled; while a slider moves, the first change at once and then the latest every 80 ms. */
  tell(settled) {
    if (settled) {
      clearTimeout(this.timer);
      this.timer = null;
      return this.send(true);
    }
    if (this.timer) return void (this.late = true);
    this.send(false);
    this.late = false;
    this.timer = setTimeout(() => {
      this.timer = null;
      if (this.late) this.tell(false);
    }, THROTTLE_MS);
  }

  send(settled) {
    this.setStateValue("dials", { token: this.token, values: { ...this.values }, off: this.off, settled });
  }
}

/** What is amiss with a concept: `works` is true, false or, where nothing was measured, null. */
function verdict(works) {
  if (works) return "";
  return works === false ? "no usable band on this model" : "not measured with this method, site and model";
}

function remark({ works, waits }) {
  return [verdict(works), waits ? "from the next answer on" : ""].filter(Boolean).join("; ");
}

function label({ name, band, collapse, works }) {
  const usable = works && band ? `usable from ${spoken(band[0])} to ${spoken(band[1])}` : verdict(works);
  return `${name}, percent of the residual norm; ${usable}${collapse ? `; collapses from ${spoken(collapse)}` : ""}`;
}

/** The track: a rail, the band in green, what collapses hatched, a tick at zero. */
function drawn({ reach, band, collapse, works }) {
  const at = (value) => 50 + (50 * Math.max(-reach, Math.min(reach, value))) / reach;
  const zone = (className, low, high) => {
    const node = element("i", { className: `zone ${className}` });
    Object.assign(node.style, { left: `${at(low)}%`, width: `${at(high) - at(low)}%` });
    return node;
  };
  const track = element("div", { className: "inner", ariaHidden: "true" }, element("i", { className: "line" }));
  if (collapse && collapse < reach) track.append(zone("collapse", -reach, -collapse), zone("collapse", collapse, reach));
  if (works && band) track.append(zone("band", band[0], band[1]));
  const tick = element("i", { className: "tick" });
  tick.style.left = "50%";
  track.append(tick);
  return track;
}
