/** One column of text: tokens are appended as they come, tinted on demand; under them the trace and the figures. */

import { STEERED, bandTop, share, steps } from "./answer.js";
import { COLLAPSED, alarmOf, metricsOf, percent } from "./words.js";

const FULL = 1.5; // shares of the band's top that get the darkest tint
const DARKEST = { strength: 48, projection: 48 }; // percent of the colour; more would hide the text
const FAINT = 0.08; // of the scale: too weak to mark with a line
const DASHES = ["", "6 3", "2 3", "8 3 2 3", "1 4", "12 4"];
const SVG = "http://www.w3.org/2000/svg";

export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function shape(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export class Column {
  /** `leads`: whether it tells the pace and has the button that stops. */
  constructor(name, title, leads = name === STEERED) {
    Object.assign(this, { name, leads });
    this.status = element("span", { className: "status" });
    this.stop = element("button", { type: "button", className: "plain stop", textContent: "■ stop", hidden: true });
    this.header = element("header", {}, element("h3", { textContent: title }), this.status);
    if (leads) this.header.append(this.stop);
    this.alarm = element("p", { className: "alarm", role: "status" });
    this.text = element("div", { className: "text", tabIndex: 0, role: "group" });
    this.text.setAttribute("aria-label", `${title}; arrow keys go from token to token`);
    this.warning = element("p", { className: "warning", role: "status" });
    this.metrics = element("dl", { className: "metrics" });
    this.node = element("article", { className: `column ${name}` }, this.header, this.alarm, this.text);
    if (name === STEERED) this.node.append((this.trace = shape("svg", { class: "trace", role: "img" })), (this.keys = element("p", { className: "keys" })));
    this.node.append(this.warning, this.metrics);
  }

  explain(sentence) {
    this.text.classList.add("about");
    this.text.removeAttribute("tabindex");
    this.text.textContent = sentence;
    if (this.trace) this.trace.remove();
    this.metrics.remove();
  }

  append(piece) {
    this.text.append(element("span", { className: "t", textContent: piece }));
  }

  /** Adjust everything but the tokens. */
  describe(answer, row) {
    this.text.classList.toggle("ended", row.ended);
    say(this.warning, row.reading?.collapsed ? COLLAPSED : "");
    say(this.alarm, alarmOf(answer, row));
    const figures = metricsOf(answer, row).map(([name, value, unit, title]) =>
      element("div", { title }, element("dt", { textContent: name }), element("dd", { textContent: `${value} ` }, element("span", { className: "unit", textContent: unit }))),
    );
    this.metrics.replaceChildren(...figures);
    if (this.trace) this.drawTrace(answer);
  }

  drawTrace(answer) {
    if (!answer.concepts.length) return;
    const count = steps(answer);
    const top = Math.max(0, ...answer.concepts.map(bandTop));
    const most = Math.max(top, ...answer.strengths.flat()) * 1.1;
    const least = Math.min(0, ...answer.strengths.flat()) * 1.1;
    const width = Math.max(count, 24);
    const height = (strength) => ((40 * (most - strength)) / (most - least)).toFixed(2);
    const level = (y, name) => shape("line", { class: name, x1: 0, x2: width, y1: y, y2: y });
    const lines = answer.concepts.map((_, i) => {
      const points = answer.strengths.map((each, step) => `${step ? "L" : "M"}${step} ${height(each[i] ?? 0)}H${step + 1}`);
      return shape("path", { d: points.join(""), ...lineStyle(i) });
    });
    this.trace.setAttribute("viewBox", `0 0 ${width} 40`);
    this.trace.setAttribute("preserveAspectRatio", "none");
    this.trace.replaceChildren(level(height(0), "zero"), level(height(top), "top"), ...lines);
    const now = answer.concepts.map(({ name }, i) => `${name} ${percent(answer.strengths[count - 1]?.[i] ?? 0)}`);
    this.trace.setAttribute("aria-label", `Strength in force at each of ${count} tokens; at the last: ${now.join(", ")}`);
    this.keys.replaceChildren(
      element("span", { textContent: "strength at each token:" }),
      ...now.map((words, i) => element("span", {}, dash(i), words)),
    );
  }
}

/** Change a sentence only where it is another, for a screen reader speaks every change. */
function say(node, sentence) {
  if (node.textContent !== sentence) node.textContent = sentence;
}

/** A dash and a colour for each concept, so that lines are told apart by either. */
function lineStyle(i) {
  return { "stroke-dasharray": DASHES[i % DASHES.length], style: `stroke: var(--line${i % DASHES.length})` };
}

function dash(i) {
  const line = shape("path", { d: "M0 5H26", ...lineStyle(i) });
  return shape("svg", { class: "dash", viewBox: "0 0 26 10", "aria-hidden": "true" }, line);
}

/** Tint the tokens of a text from index `from` on: by strength (the steered text only), projection or score. */
export function tintTokens(text, { answer, name, tint, figures, scale }, from = 0) {
  const spans = text.children;
  for (let i = from; i < spans.length; i++) {
    if (tint === "strength") tintByStrength(spans[i], name === STEERED ? share(answer, i) : 0);
    else tintByFigure(spans[i], figures?.[i], scale);
  }
}

function tintByStrength(span, level) {
  const amount = (Math.min(level, FULL) / FULL) * DARKEST.strength;
  span.className = "t";
  span.style.backgroundColor = amount ? `color-mix(in srgb, var(--primary) ${amount.toFixed(1)}%, transparent)` : "";
}

function tintByFigure(span, value, scale) {
  const level = scale && Number.isFinite(value) ? Math.max(-1, Math.min(1, value / scale)) : 0;
  const sign = level < 0 ? "less" : "more";
  span.className = Math.abs(level) > FAINT ? `t ${sign}` : "t";
  span.style.backgroundColor = level
    ? `color-mix(in srgb, var(--${sign}) ${(Math.abs(level) * DARKEST.projection).toFixed(1)}%, transparent)`
    : "";
}

export function paintLegend(strip, tint) {
  const colour = (name, amount) => `color-mix(in srgb, var(--${name}) ${amount}%, transparent)`;
  strip.style.background =
    tint === "strength"
      ? `linear-gradient(to right, transparent, ${colour("primary", DARKEST.strength)})`
      : `linear-gradient(to right, ${colour("less", DARKEST.projection)}, transparent, ${colour("more", DARKEST.projection)})`;
}
