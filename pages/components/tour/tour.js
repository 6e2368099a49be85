/**
 * The tour's bar and presenter mode. The page sends `data` = {seq, at, present, stops: [{step, heading, page, show,
 * minutes, text}]}; `at` is the stop we are at, null outside the tour. It hears `said` = {seq, at, present}, each time
 * with the next number, and answers with the number it has heard last: an older answer is out of date.
 *
 * Whatever is said is shown at once; the page follows. A key is the tour's only where nothing in focus wants it.
 */

// Where arrow keys mean nothing else; pills, tabs, sliders, fields and canvases keep them.
const FREE = "html, body, main, section, summary, a[href], button:not([role]):not([aria-haspopup])";
const WRITABLE = "input:not([type=range]):not([type=radio]):not([type=checkbox]), textarea, select, [contenteditable=true], [role=listbox] *, [role=menu] *";
const OWNERS = "[role=radiogroup], [role=tablist], [role=listbox], [role=menu], [role=grid], [role=slider], [role=application]";
const DIALOG = '[role="dialog"], [data-testid="stFullScreenFrame"] [aria-label="Close fullscreen"]';
const PATIENCE_MS = 6000; // for a page to draw what a beat shows
const LOOK_MS = 100;
const STEADY_LOOKS = 8; // that it must stay in place

// By element: when two messages come at once, Streamlit cleans a component up and calls it again on the same elements.
const mounted = new WeakMap();

export default function tourComponent({ data, parentElement, setStateValue }) {
  const bar = parentElement.querySelector(".bar");
  let tour = mounted.get(bar);
  if (!tour) mounted.set(bar, (tour = new Tour(parentElement)));
  tour.receive(data, setStateValue);
  return () => setTimeout(() => bar.isConnected || tour.destroy());
}

const page = (testId) => document.querySelector(`[data-testid="${testId}"]`);
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

class Tour {
  constructor(root) {
    this.part = Object.fromEntries([...root.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
    Object.assign(this, { seq: 0, at: null, present: false, stops: [], shown: null });
    const { back, next, present, leave, out } = this.part;
    back.addEventListener("click", () => this.go(-1));
    next.addEventListener("click", () => (this.last ? this.say({ at: null }) : this.go(1)));
    leave.addEventListener("click", () => this.say({ at: null }));
    for (const button of [present, out]) button.addEventListener("click", () => this.say({ present: !this.present }));
    this.sizes = new ResizeObserver(() => this.fit());
    for (const node of [this.part.bar, page("stMain"), page("stMainBlockContainer")]) if (node) this.sizes.observe(node);
    this.ended = new AbortController();
    const { signal } = this.ended;
    window.addEventListener("keydown", (event) => this.press(event), { capture: true, signal });
    for (const name of ["focusin", "focusout"]) document.addEventListener(name, () => this.hint(), { signal });
    for (const name of ["wheel", "touchmove", "pointerdown"]) {
      window.addEventListener(name, () => this.stopRevealing(), { capture: true, passive: true, signal });
    }
  }

  destroy() {
    this.ended.abort();
    this.sizes.disconnect();
    this.stopRevealing();
    delete document.documentElement.dataset.lmPresent;
    document.documentElement.style.removeProperty("--lm-tour-height");
  }

  // -- what the page says and hears -------------------------------------------------------------------------------------

  receive(data, setStateValue) {
    this.setStateValue = setStateValue;
    if (data.seq < this.seq) return; // the answer to something older than what we said last
    Object.assign(this, data);
    this.show();
  }

  /** Tell the page where we want to be, and show it. */
  say(change) {
    Object.assign(this, change, { seq: this.seq + 1 });
    this.setStateValue("said", { seq: this.seq, at: this.at, present: this.present });
    this.show();
  }

  go(by) {
    const at = this.at + by;
    if (this.at !== null && at >= 0 && at < this.stops.length) this.say({ at });
  }

  get last() {
    return this.at === this.stops.length - 1;
  }

  // -- the bar ----------------------------------------------------------------------------------------------------------

  show() {
    const { bar, where, text, minute, back, next, present, out } = this.part;
    const stop = this.at === null ? null : this.stops[this.at];
    document.documentElement.toggleAttribute("data-lm-present", this.present);
    bar.hidden = !stop;
    out.hidden = !this.present || Boolean(stop);
    if (stop) {
      where.textContent = stop.heading;
      if (text.textContent !== stop.text) text.textContent = stop.text;
      minute.textContent = this.minuteOf(this.at);
      back.disabled = this.at === 0;
      next.firstElementChild.textContent = this.last ? "Finish" : "Next";
      present.setAttribute("aria-pressed", this.present);
      this.drawTrack();
      this.hint();
    }
    this.fit();
    if (this.shown !== this.at) this.reveal(stop);
    this.shown = this.at;
  }

  minuteOf(at) {
    const sum = (stops) => Math.round(stops.reduce((total, { minutes }) => total + minutes, 0));
    return `minute ${Math.max(1, sum(this.stops.slice(0, at + 1)))} of ${sum(this.stops)}`;
  }

  /** One segment a step, one dash a beat. */
  drawTrack() {
    const steps = new Map();
    this.stops.forEach((stop, place) => {
      const state = place === this.at ? "here" : place < this.at ? "past" : "";
      if (!steps.has(stop.step)) steps.set(stop.step, element("div"));
      steps.get(stop.step).append(element("i", { className: state }));
    });
    for (const node of steps.values()) node.style.setProperty("--beats", node.childElementCount);
    this.part.track.replaceChildren(...steps.values());
  }

  /** Stand under the main column, and have the page leave room. */
  fit() {
    const { bar } = this.part;
    const [main, column] = [page("stMain"), page("stMainBlockContainer")];
    if (!main || !column) return;
    const [outer, inner, style] = [main.getBoundingClientRect(), column.getBoundingClientRect(), getComputedStyle(column)];
    const places = {
      "--left": outer.left,
      "--width": outer.width,
      "--left-margin": inner.left - outer.left + parseFloat(style.paddingLeft),
      "--right-margin": outer.right - inner.right + parseFloat(style.paddingRight),
    };
    for (const [name, pixels] of Object.entries(places)) bar.style.setProperty(name, `${pixels}px`);
    document.documentElement.style.setProperty("--lm-tour-height", `${bar.offsetHeight}px`);
  }

  // -- keys -------------------------------------------------------------------------------------------------------------

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || document.querySelector(DIALOG)) return;
    const [target] = event.composedPath();
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key] ?? (this.present ? { PageDown: 1, PageUp: -1 }[event.key] : 0);
    if (by && this.at !== null && isFree(target)) {
      event.preventDefault();
      this.go(by);
    } else if (event.key.toLowerCase() === "p" && !event.shiftKey && !target.matches?.(WRITABLE)) {
      this.say({ present: !this.present });
    } else if (event.key === "Escape") {
      this.escape(target);
    }
  }

  /** Give the arrow keys back to the tour, else leave presenter mode. */
  escape(target) {
    if (isFree(target)) return void (this.present && this.say({ present: false }));
    if (this.at !== null || this.present) setTimeout(() => target.blur());
  }

  /** While a control has the arrow keys, say so. */
  hint() {
    if (this.at === null) return;
    const owned = !isFree(focused());
    this.part.minute.textContent = owned ? "arrow keys belong to this control · Esc frees them" : this.minuteOf(this.at);
  }

  // -- bringing into view -----------------------------------------------------------------------------------------------

  /** Wait until the stop's page stands, scroll to what it shows, follow it while the page settles, mark it once. */
  reveal(stop) {
    this.stopRevealing();
    if (!stop) return;
    const until = performance.now() + PATIENCE_MS;
    let steady = 0;
    let marked = false;
    this.revealing = setInterval(() => {
      const node = this.drawn(stop) && (stop.show ? document.querySelector(`.st-key-${stop.show}`) : page("stMainBlockContainer"));
      if (node) {
        steady = this.scrollTo(node, !stop.show) ? 0 : steady + 1;
        if (stop.show && !marked && steady > 1) marked = this.mark(node);
      }
      if (steady >= STEADY_LOOKS || performance.now() > until) this.stopRevealing();
    }, LOOK_MS);
  }

  stopRevealing() {
    clearInterval(this.revealing);
  }

  /** Whether the page on show is the stop's, drawn to its end. */
  drawn({ page: address }) {
    const here = location.pathname.split("/").pop() === address;
    return here && page("stApp")?.dataset.testScriptState === "notRunning";
  }

  /** Scroll where that is still needed; small things to the middle of what the bar leaves free. */
  scrollTo(node, top) {
    const main = page("stMain");
    const head = this.present ? 16 : 72;
    const room = main.clientHeight - this.part.bar.offsetHeight - head;
    const box = node.getBoundingClientRect();
    const spare = Math.max(16, (room - box.height) / 2);
    const wanted = top ? 0 : main.scrollTop + box.top - main.getBoundingClientRect().top - head - Math.min(spare, room / 3);
    const target = Math.max(0, Math.min(wanted, main.scrollHeight - main.clientHeight));
    if (Math.abs(target - main.scrollTop) < 4) return false;
    main.scrollTo({ top: target, behavior: still() ? "instant" : "smooth" });
    return true;
  }

  mark(node) {
    const colour = getComputedStyle(this.part.bar).getPropertyValue("--primary");
    const ring = { outline: `3px solid ${colour}`, outlineOffset: "8px", borderRadius: "4px" };
    if (!still()) node.animate([{ ...ring, outlineColor: "transparent" }, ring, { ...ring, outlineColor: "transparent" }], 1600);
    return true;
  }
}

function focused() {
  let node = document.activeElement;
  while (node?.shadowRoot?.activeElement) node = node.shadowRoot.activeElement;
  return node ?? document.body;
}

/** Whether an element that has the focus leaves the arrow keys to the page. */
function isFree(node) {
  return !node.matches || (node.matches(FREE) && !node.closest(OWNERS));
}
