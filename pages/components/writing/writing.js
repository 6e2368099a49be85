/**
 * Three answers to one prompt, written side by side while one watches.
 *
 * The page sends `data` = {stream, about}: which stream to follow, and what to put beside it in a copy. The events come
 * over the stream itself, so nothing the page does (a slider moved, a figure drawn) disturbs the text; a new stream id
 * starts anew. The page hears one trigger, `stop`. Model text is written with textContent only.
 */

import { absorb, asJson, detectorTint, emptyAnswer, figuresOf, steps, tintScale, watchedBy } from "./answer.js";
import { Follower } from "./follow.js";
import { Column, element, paintLegend, tintTokens } from "./draw.js";
import { legendOf, placeholders, statusOf, tokenFacts } from "./words.js";

const ANNOUNCE_MS = 10_000;
const COPIED_MS = 1500;
const LOST = "The connection to this answer is lost: it is no longer kept, or the server is gone. Write it again.";

// By root: when two messages come at once, Streamlit cleans a component up and calls it again on the same elements.
const mounted = new WeakMap();

export default function writingComponent({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".writing");
  let writing = mounted.get(root);
  if (!writing) mounted.set(root, (writing = new WritingView(root)));
  writing.receive(data, setTriggerValue);
  return () => setTimeout(() => root.isConnected || writing.destroy());
}

class WritingView {
  constructor(root) {
    this.root = root;
    this.part = Object.fromEntries([...root.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
    this.tint = "strength";
    this.part.copy.addEventListener("click", () => this.copy());
    for (const kind of ["pointerover", "click"]) root.addEventListener(kind, (event) => this.point(event));
    root.addEventListener("keydown", (event) => this.walk(event));
    this.forget();
  }

  destroy() {
    this.follower?.close();
    cancelAnimationFrame(this.pending);
    clearInterval(this.announcing);
  }

  receive(data, setTriggerValue) {
    Object.assign(this, { data, setTriggerValue });
    if (data.stream !== this.stream) this.restart(data.stream);
  }

  // -- following ------------------------------------------------------------------------------------------------------

  forget() {
    Object.assign(this, { answer: emptyAnswer(), stopping: false, tinted: [0, 0, 0] });
    this.columns = placeholders().map(([name, title, sentence]) => {
      const column = new Column(name, title);
      column.explain(sentence);
      return column;
    });
    this.part.columns.replaceChildren(...this.columns.map(({ node }) => node));
    for (const name of ["toolbar", "asked", "legend"]) this.part[name].hidden = true;
    this.part.notice.textContent = this.part.readout.textContent = "";
    this.root.dataset.state = "idle";
  }

  restart(stream) {
    this.follower?.close();
    clearInterval(this.announcing);
    this.stream = stream;
    this.forget();
    if (!stream) return;
    this.root.dataset.state = "waiting";
    this.follower = new Follower(stream, {
      onEvent: (event) => this.take(event),
      onLost: () => this.lose(),
    });
    this.announcing = setInterval(() => this.announce(), ANNOUNCE_MS);
  }

  take(event) {
    absorb(this.answer, event);
    if (event.type === "start") this.open();
    if (event.type === "token") this.write(event);
    if (event.type === "end") this.finish();
    if (event.type === "reading") this.tinted = [0, 0, 0];
    this.need();
  }

  open() {
    this.root.dataset.state = "writing";
    const last = this.answer.rows.length - 1;
    this.columns = this.answer.rows.map(({ name, title }, i) => new Column(name, title, i === last));
    this.part.columns.replaceChildren(...this.columns.map(({ node }) => node));
    const { stop } = this.columns[last];
    stop.hidden = false;
    stop.addEventListener("click", () => this.askToStop());
    this.part.prompt.replaceChildren(...this.answer.prompt.map((textContent) => element("span", { className: "t", textContent })));
    this.offerTints();
    this.part.toolbar.hidden = this.part.legend.hidden = false;
  }

  write({ pieces }) {
    pieces.forEach((piece, i) => piece !== null && this.columns[i]?.append(piece));
  }

  askToStop() {
    this.stopping = true;
    this.setTriggerValue("stop", this.stream);
    this.need();
  }

  finish() {
    this.root.dataset.state = "done";
    clearInterval(this.announcing);
    if (!this.answer.start) this.part.notice.textContent = "Stopped before the first token.";
    this.announce();
  }

  lose() {
    this.root.dataset.state = "lost";
    clearInterval(this.announcing);
    this.part.notice.textContent = LOST;
    this.need();
  }

  announce() {
    const { answer } = this;
    if (!steps(answer)) return;
    const row = answer.rows.at(-1);
    this.part.live.textContent = answer.end
      ? `Finished ${statusOf(answer, false)}. ${row.title}: ${row.pieces.join("").slice(0, 300)}`
      : `Writing, ${steps(answer)} tokens so far.`;
  }

  // -- drawing, at most once a frame ----------------------------------------------------------------------------------

  need() {
    this.pending ??= requestAnimationFrame(() => {
      this.pending = null;
      this.draw();
    });
  }

  draw() {
    const { answer, part, tint } = this;
    if (!answer.start) return;
    const measured = tint !== "strength";
    const scale = measured ? tintScale(answer, tint) : 0;
    answer.rows.forEach((row, i) => {
      const column = this.columns[i];
      column.describe(answer, row);
      tintTokens(column.text, { answer, name: row.name, tint, figures: figuresOf(answer, row, tint), scale }, this.tinted[i]);
      this.tinted[i] = measured ? this.tinted[i] : row.pieces.length;
      if (column.leads) {
        column.status.textContent = statusOf(answer, this.stopping);
        column.stop.hidden = Boolean(answer.end) || this.root.dataset.state === "lost";
        column.stop.disabled = this.stopping;
      }
    });
    part.asked.hidden = !measured || Boolean(watchedBy(answer, tint)); // detectors read what is written
    if (measured) tintTokens(part.prompt, { answer, name: "prompt", tint, figures: answer.promptProjections[tint], scale });
    paintLegend(part.legend.firstElementChild, tint);
    part.legend.lastElementChild.textContent = legendOf(answer, tint, scale);
  }

  offerTints() {
    const { concepts, watched } = this.answer;
    const choices = [
      ...(concepts.length || !watched.length ? [["strength", "strength"]] : []),
      ...concepts.map(({ id, name }) => [id, `projection on ${name}`]),
      ...watched.map(({ id, name }) => [detectorTint(id), `detector for ${name}`]),
    ];
    if (!choices.some(([value]) => value === this.tint)) this.tint = choices[0][0];
    const labels = choices.map(([value, words]) => {
      const input = element("input", { type: "radio", name: "tint", value, checked: value === this.tint });
      input.addEventListener("change", () => {
        Object.assign(this, { tint: value, tinted: [0, 0, 0] });
        this.need();
      });
      return element("label", {}, input, element("span", { textContent: words }));
    });
    this.part.tint.replaceChildren(this.part.tint.querySelector("legend"), ...labels);
  }

  // -- one token under the pointer or the keyboard --------------------------------------------------------------------

  point({ target }) {
    if (target.classList?.contains("t")) this.say(target);
  }

  walk(event) {
    const text = event.target;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !text.classList?.contains("text") || !text.children.length) return;
    event.preventDefault();
    const here = [...text.children].indexOf(this.at);
    const next = here < 0 ? 0 : Math.max(0, Math.min(text.children.length - 1, here + step));
    this.part.live.textContent = this.say(text.children[next]);
  }

  say(span) {
    const text = span.parentElement;
    const row = this.answer.rows[this.columns.findIndex((column) => column.text === text)];
    this.at?.classList.remove("at");
    this.at = span;
    span.classList.add("at");
    return (this.part.readout.textContent = tokenFacts(this.answer, row, [...text.children].indexOf(span)));
  }

  async copy() {
    const words = asJson(this.answer, this.data.about);
    const { copy } = this.part;
    try {
      await navigator.clipboard.writeText(words);
    } catch {
      copyByHand(this.root, words); // a page served without https has no clipboard of its own
    }
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy as JSON"), COPIED_MS);
  }
}

function copyByHand(root, words) {
  const field = root.appendChild(element("textarea", { className: "unseen", value: words }));
  field.select();
  document.execCommand("copy");
  field.remove();
}
