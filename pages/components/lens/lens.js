/**
 * The lens: a score machine's image and a network's, pixel by pixel, with the training patches each pixel comes from.
 *
 * Everything shown is in `data.payload` (payload.py), so hovering never calls the server; the server hears one state
 * value, `place` = {pin, step, view}, debounced. No mathematics of the theory is done here: weights, tiles and
 * estimates arrive computed. Text is written with textContent only. Everything is drawn at most once a frame.
 */

import { chosenRank, decode, sourcesOf } from "./model.js";
import { filmOf, fit, legendOf, paintNetwork, paintOverlay, paintStrip, paintView } from "./paint.js";
import { paintOwnWindow, paintPatch, paintSource, swatch } from "./paint.js";
import { savePicture } from "./save.js";
import { announcement, captions, detailCaptions, facts, imageLabels } from "./words.js";
import { percent, scoreLines, spot, timeOf } from "./words.js";

const VIEWS = {
  image: "Image",
  mosaic: "Mosaic",
  stitched: "Stitched",
  sources: "How many sources",
  difference: "Difference",
  wipe: "Wipe",
};
const NEEDS_TABLES = ["mosaic", "stitched", "sources"];
const NEEDS_NETWORK = ["difference", "wipe"];
const KINDS = { denoised: "Estimate", noisy: "Noisy state" };
const TILINGS = { 0: "Exact", 1: "Coherent" };
const REDRAW = ["focus", "base", "size"]; // each includes those before it
const REPORT_MS = { pin: 150, view: 150, step: 450 };
const LIVE_MS = 700;
const CARDS = 8;

const lenses = new WeakMap(); // one for each mounted component
const remembered = new Map(); // by the page's key: where the visitor was, should the component be mounted anew

export default function lensComponent({ data, parentElement, setStateValue }) {
  let lens = lenses.get(parentElement);
  if (!lens) lenses.set(parentElement, (lens = new Lens(parentElement.querySelector(".lens"))));
  lens.receive(data, setStateValue).catch((error) => lens.say(`This can't be shown: ${error.message}.`));
  return () => {
    lens.destroy();
    lenses.delete(parentElement);
  };
}

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const same = (a, b) => a?.join() === b?.join();
const clamp = (value, most) => Math.max(0, Math.min(most, value));

class Lens {
  constructor(root) {
    this.root = root;
    this.part = Object.fromEntries([...root.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
    this.place = { pin: null, step: null, view: "image" };
    Object.assign(this, { kind: "denoised", tiling: 1, hover: null, chosen: 0, wipe: 0.5, model: null, timers: {} });
    this.sides = [this.part.left, this.part.right].map((figure) => ({
      figure,
      stage: figure.querySelector(".stage"),
      base: figure.querySelector(".base"),
      overlay: figure.querySelector(".overlay"),
      caption: figure.querySelector("figcaption"),
    }));
    this.strip = this.part.strip.querySelector("canvas");
    this.buildSegments("view", VIEWS, (view) => this.go({ view }));
    this.buildSegments("kind", KINDS, (kind) => this.change({ kind }));
    this.buildSegments("tiling", TILINGS, (tiling) => this.change({ tiling: Number(tiling) }));
    this.cards = Array.from({ length: CARDS }, (_, place) => this.buildCard(place));
    this.rest = this.buildRest();
    this.facts = this.part.facts.appendChild(new Text());
    this.listen();
    this.sizes = new ResizeObserver(() => this.need("size"));
    this.sizes.observe(this.part.strip.parentElement);
    for (const { stage } of this.sides) this.sizes.observe(stage);
  }

  destroy() {
    this.sizes.disconnect();
    clearInterval(this.playing);
    cancelAnimationFrame(this.pending);
    for (const timer of Object.values(this.timers)) clearTimeout(timer);
  }

  // -- data from the page ---------------------------------------------------------------------------------------------

  /** Take what the page sends; the visitor's place is kept unless the page orders another. */
  async receive(data, setStateValue) {
    Object.assign(this, { setStateValue, latest: data });
    this.readTheme();
    if (this.model?.id !== data.payload.id) {
      const model = await decode(data.payload);
      if (this.latest !== data) return; // newer data arrived meanwhile
      this.model = model;
      const filmed = [model.machine_images, model.network].filter((images) => images.denoised);
      this.films = filmed.map((images) => filmOf(model, images));
    }
    if (this.token !== data.token) this.obey(data);
    this.say(this.model.done ? "" : "The first step is being computed…");
    this.part.body.hidden = !this.model.done;
    if (this.model.done) this.prepare();
  }

  obey({ key, token, wanted }) {
    const before = remembered.get(key);
    this.place = { ...(before?.token === token ? before.place : wanted) };
    Object.assign(this, { token, hover: null, chosen: 0 });
  }

  /** Adjust what depends on the data alone. */
  prepare() {
    const { model, part, place } = this;
    const inside = (pixel) => pixel && pixel[0] < model.height && pixel[1] < model.width;
    if (!inside(place.pin)) place.pin = null;
    if (!inside(this.hover)) this.hover = null;
    for (const { stage } of this.sides) stage.style.aspectRatio = `${model.width} / ${model.height}`;
    for (const view of Object.keys(VIEWS)) {
      const lacking = NEEDS_TABLES.includes(view) ? !model.sources : NEEDS_NETWORK.includes(view) && !model.hasNetwork;
      this.inputOf("view", view).disabled = lacking;
    }
    const factor = model.mosaics?.[1]?.factor;
    if (factor) this.inputOf("tiling", 1).nextSibling.textContent = `Coherent ×${Number(factor.toFixed(2))}`;
    part.strip.setAttribute("aria-valuemax", model.steps);
    part.absent.hidden = model.hasNetwork;
    part.absent.textContent = model.network.note;
    part.rows.textContent = this.films.length > 1 ? "estimates: theory above, network below" : "the theory's estimates";
    part.cards.hidden = !model.sources;
    const lines = scoreLines(model).map(([className, textContent]) => element("p", { className, textContent }));
    part.score.replaceChildren(...lines);
    this.need("size");
  }

  /** Read the page's colours; `data-scheme` tells the style sheet light from dark. */
  readTheme() {
    const style = getComputedStyle(this.root);
    const read = (name, fallback) => style.getPropertyValue(name).trim() || fallback;
    const page = read("--st-background-color", "#ffffff");
    const probe = new OffscreenCanvas(1, 1).getContext("2d");
    probe.fillStyle = page;
    probe.fillRect(0, 0, 1, 1);
    const [red, green, blue] = probe.getImageData(0, 0, 1, 1).data;
    this.root.dataset.scheme = 0.21 * red + 0.72 * green + 0.07 * blue < 110 ? "dark" : "light";
    const empty = read("--st-secondary-background-color", "#eeeeee");
    this.theme = { page, empty, text: read("--st-text-color", "#111111"), font: read("--st-font", "sans-serif") };
  }

  // -- where the visitor is -------------------------------------------------------------------------------------------

  get step() {
    return Math.min(this.place.step ?? Infinity, this.model.done - 1);
  }

  get view() {
    return this.inputOf("view", this.place.view).disabled ? "image" : this.place.view;
  }

  /** Everything a drawing or a sentence depends on. */
  get scene() {
    const { model, view, step, kind, wipe, hover, tiling } = this;
    const { pin } = this.place;
    const mosaic = model.mosaics?.[Math.min(tiling, model.mosaics.length - 1)];
    return { model, view, step, kind, wipe, hover, pin, mosaic, focus: hover ?? pin ?? model.standard };
  }

  /** Move to another pin, step or view, and tell the server. */
  go(change) {
    Object.assign(this.place, change);
    if ("pin" in change) this.chosen = 0;
    remembered.set(this.latest.key, { token: this.token, place: { ...this.place } });
    this.need("base");
    const delay = Math.max(...Object.keys(change).map((name) => REPORT_MS[name]));
    const report = () => this.setStateValue("place", { ...this.place, token: this.token });
    if (!this.playing) this.later("report", delay, report);
  }

  /** Change what only the browser knows. */
  change(values) {
    Object.assign(this, values);
    this.need("base");
  }

  point(pixel) {
    if (same(pixel, this.hover)) return;
    this.hover = pixel;
    this.need("focus");
  }

  togglePin(pixel) {
    this.go({ pin: same(pixel, this.place.pin) ? null : pixel });
  }

  scrub(step) {
    this.go({ step: clamp(step, this.model.done - 1) });
  }

  playOrPause() {
    if (this.playing) return this.pause();
    const slow = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (this.step === this.model.done - 1) this.place.step = 0;
    this.playing = setInterval(() => {
      this.scrub(this.step + 1);
      if (this.step === this.model.done - 1) this.pause();
    }, slow ? 700 : Math.max(60, 3600 / this.model.steps));
    this.need("base");
  }

  pause() {
    clearInterval(this.playing);
    this.playing = null;
    this.go({ step: this.step });
  }

  later(name, delay, action) {
    clearTimeout(this.timers[name]);
    this.timers[name] = setTimeout(action, delay);
  }

  // -- events ---------------------------------------------------------------------------------------------------------

  listen() {
    const { part } = this;
    for (const { overlay } of this.sides) this.listenOn(overlay);
    this.sides[0].overlay.addEventListener("keydown", (event) => this.stageKey(event));
    this.root.addEventListener("keydown", ({ key }) => key === "Escape" && this.place.pin && this.go({ pin: null }));
    part.unpin.addEventListener("click", () => this.go({ pin: null }));
    part.export.addEventListener("click", () => this.save());
    part.play.addEventListener("click", () => this.playOrPause());
    part.back.addEventListener("click", () => this.scrub(this.step - 1));
    part.next.addEventListener("click", () => this.scrub(this.step + 1));
    part.strip.addEventListener("keydown", (event) => this.stripKey(event));
    onDrag(part.strip, part.strip, (share) => {
      const half = this.frameWidth / 2 / this.stripWidth;
      this.scrub(Math.round(((share - half) / (1 - 2 * half || 1)) * (this.model.steps - 1)));
    });
    onDrag(part.divider, this.sides[0].stage, (share) => this.change({ wipe: clamp(share, 1) }));
    part.divider.addEventListener("keydown", (event) => this.dividerKey(event));
  }

  listenOn(overlay) {
    const pixelAt = ({ offsetX, offsetY }) => {
      const { width, height } = this.model;
      const [wide, tall] = this.stageSize;
      const [y, x] = [Math.floor((offsetY / tall) * height), Math.floor((offsetX / wide) * width)];
      return [clamp(y, height - 1), clamp(x, width - 1)];
    };
    overlay.addEventListener("pointermove", (event) => this.point(pixelAt(event)));
    overlay.addEventListener("pointerdown", (event) => this.point(pixelAt(event)));
    overlay.addEventListener("click", (event) => this.togglePin(pixelAt(event)));
    overlay.addEventListener("pointerleave", () => this.place.pin && this.point(null));
  }

  stageKey(event) {
    const stride = event.shiftKey ? 5 : 1;
    const moves = { ArrowUp: [-stride, 0], ArrowDown: [stride, 0], ArrowLeft: [0, -stride], ArrowRight: [0, stride] };
    const [y, x] = this.scene.focus;
    if (moves[event.key]) {
      const [dy, dx] = moves[event.key];
      this.point([clamp(y + dy, this.model.height - 1), clamp(x + dx, this.model.width - 1)]);
    } else if (event.key === "Enter") this.togglePin([y, x]);
    else if (event.key === " ") this.playOrPause();
    else return;
    event.preventDefault();
  }

  stripKey(event) {
    const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, Home: -Infinity, End: Infinity };
    if (event.key in moves) this.scrub(this.step + moves[event.key]);
    else if (event.key === " ") this.playOrPause();
    else return;
    event.preventDefault();
  }

  dividerKey(event) {
    const moves = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 };
    if (!(event.key in moves)) return;
    this.change({ wipe: clamp(this.wipe + moves[event.key], 1) });
    event.preventDefault();
  }

  // -- drawing --------------------------------------------------------------------------------------------------------

  /** Ask for a redraw in the next frame: of the focus, the base as well, or everything for a new size. */
  need(what) {
    this.wanted = Math.max(this.wanted ?? 0, REDRAW.indexOf(what));
    this.pending ??= requestAnimationFrame(() => {
      const wanted = REDRAW[this.wanted];
      Object.assign(this, { pending: null, wanted: 0 });
      if (!this.model?.done) return;
      const { scene } = this;
      if (wanted !== "focus") this.arrange(scene);
      if (wanted === "size") this.measure();
      if (wanted !== "focus") this.showBase(scene);
      this.showFocus(scene);
    });
  }

  /** Show the parts that the view needs, and measure again if that moves the figures. */
  arrange({ view, model }) {
    const { part } = this;
    this.inputOf("view", view).checked = true;
    this.inputOf("kind", this.kind).checked = true;
    this.inputOf("tiling", clamp(this.tiling, (model.mosaics?.length ?? 1) - 1)).checked = true;
    part.tiling.hidden = !(["mosaic", "stitched"].includes(view) && model.mosaics.length > 1);
    part.right.hidden = view === "wipe";
    part.divider.hidden = view !== "wipe";
    Object.assign(this.root.dataset, { view, channels: model.channels });
  }

  measure() {
    const { stage } = this.sides[0];
    this.stageSize = [stage.clientWidth, stage.clientHeight];
    for (const { base, overlay } of this.sides) for (const canvas of [base, overlay]) fit(canvas, ...this.stageSize);
    const { steps, width, height } = this.model;
    const room = this.part.strip.parentElement.clientWidth;
    const frames = Math.min(steps, Math.max(6, Math.floor(room / 36)));
    this.frameWidth = Math.min(96, room / frames);
    this.stripWidth = this.frameWidth * frames;
    const tall = this.films.length * this.frameWidth * (height / width);
    Object.assign(this.part.strip.style, { width: `${this.stripWidth}px`, height: `${tall}px` });
    fit(this.strip, this.stripWidth, tall);
    paintStrip(this.strip, this.model, this.films, frames, this.theme.empty);
  }

  showBase(scene) {
    const [left, right] = this.sides;
    paintView(left.base, scene);
    paintNetwork(right.base, scene);
    const said = captions(scene);
    writeCaption(left.caption, ...said.left);
    writeCaption(right.caption, ...said.right);
    const labels = imageLabels(scene);
    left.overlay.setAttribute("aria-label", labels.left);
    right.overlay.setAttribute("aria-label", labels.right);
    this.showLegend(legendOf(scene));
    this.showTime(scene);
    this.showDivider(scene);
  }

  showLegend(legend) {
    this.part.legend.hidden = !legend;
    if (!legend) return;
    const bar = element("div");
    bar.style.background = `linear-gradient(to right, ${legend.colours.join(", ")})`;
    const ticks = legend.ticks.map((textContent, place) => {
      const share = (100 * place) / (legend.ticks.length - 1);
      const tick = element("span", { textContent });
      Object.assign(tick.style, { left: `${share * (legend.extent ?? 1)}%`, transform: `translateX(-${share}%)` });
      return tick;
    });
    this.part.legend.replaceChildren(bar, element("p", {}, ...ticks));
  }

  showTime({ model, step }) {
    const { part } = this;
    const text = `step ${step + 1} of ${model.steps} · ${timeOf(model, step)}`;
    part.time.textContent = text;
    part.strip.setAttribute("aria-valuenow", step + 1);
    part.strip.setAttribute("aria-valuetext", text);
    part.play.textContent = this.playing ? "Pause" : "Play";
    const at = model.steps === 1 ? 0 : (step / (model.steps - 1)) * (this.stripWidth - this.frameWidth);
    Object.assign(part.marker.style, { width: `${this.frameWidth}px`, transform: `translateX(${at}px)` });
  }

  showDivider({ wipe }) {
    const share = Math.round(100 * wipe);
    this.part.divider.style.left = `${share}%`;
    this.part.divider.setAttribute("aria-valuenow", share);
    this.part.divider.setAttribute("aria-valuetext", `theory ${share} %, network ${100 - share} %`);
  }

  showFocus(scene) {
    const { part } = this;
    this.sides.forEach(({ overlay }, place) => paintOverlay(overlay, scene, place === 0));
    this.facts.data = facts(scene);
    part.unpin.hidden = !scene.pin;
    if (scene.pin) {
      part.unpin.lastElementChild.textContent = `${spot(scene.pin)} ×`;
      part.unpin.setAttribute("aria-label", `Let go of the pinned pixel ${spot(scene.pin)}`);
    }
    if (scene.model.sources) this.showCards(scene);
    this.showDetail(scene);
  }

  showCards(scene) {
    const { model, step, focus, pin, mosaic } = scene;
    const found = sourcesOf(model, step, focus);
    const tiled = ["mosaic", "stitched"].includes(scene.view) ? chosenRank(model, mosaic, step, focus) : -1;
    this.cards.forEach((card, place) => {
      const source = found[place];
      card.item.hidden = !source;
      if (!source) return;
      fit(card.canvas, 104, (104 * model.height) / model.width);
      paintSource(card.canvas, scene, source);
      card.bar.style.transform = `scaleX(${source.weight})`;
      card.name.data = `#${source.id} · ${percent(source.weight)}`;
      card.tint.style.background = swatch(source.id);
      card.item.classList.toggle("tiled", source.rank === tiled);
      card.button.setAttribute("aria-pressed", same(focus, pin) && place === this.chosen);
      card.button.setAttribute("aria-label", `Training image ${source.id}, ${percent(source.weight)}: pin and enlarge`);
    });
    const rest = Math.max(0, 1 - found.reduce((sum, { weight }) => sum + weight, 0));
    this.rest.bar.style.transform = `scaleX(${rest})`;
    this.rest.share.data = percent(rest);
    const announce = () => (this.part.live.textContent = announcement(scene, found, rest));
    if (!this.playing) this.later("live", LIVE_MS, announce);
  }

  /** Show one source of the pinned pixel large, beside the image's own window. */
  showDetail(scene) {
    const { model, step, kind, pin } = scene;
    const found = pin && model.sources ? sourcesOf(model, step, pin) : [];
    this.part.detail.hidden = !found.length;
    const shown = [model.id, step, kind, pin, this.chosen, devicePixelRatio].join();
    if (!found.length || shown === this.shownDetail) return;
    this.shownDetail = shown;
    const source = found[Math.min(this.chosen, found.length - 1)];
    const said = detailCaptions(scene, source);
    const paint = [
      (canvas) => paintSource(canvas, scene, source),
      (canvas) => paintPatch(canvas, scene, source),
      (canvas) => paintOwnWindow(canvas, scene, pin),
    ];
    [...this.part.detail.children].forEach(({ children: [canvas, caption] }, place) => {
      fit(canvas, 208, place ? 208 : (208 * model.height) / model.width);
      paint[place](canvas);
      writeCaption(caption, ...said[place]);
    });
  }

  say(text) {
    this.part.notice.textContent = text;
  }

  save() {
    const { model, theme } = this;
    const shown = this.sides.filter(({ figure, caption }) => !figure.hidden && caption.textContent);
    const cards = this.cards.filter(({ item }) => model.sources && !item.hidden);
    savePicture({
      title: `${model.title} · ${VIEWS[this.view]} · step ${this.step + 1}`,
      figures: shown.map(({ base, overlay, caption }) => ({ layers: [base, overlay], caption: caption.textContent })),
      legend: legendOf(this.scene),
      line: this.facts.data,
      cards: cards.map(({ canvas, name }) => ({ canvas, name: name.data })),
      ratio: model.height / model.width,
      theme,
    });
  }

  // -- building -------------------------------------------------------------------------------------------------------

  buildSegments(part, choices, choose) {
    const name = `${part}-${Math.random().toString(36).slice(2)}`;
    for (const [value, text] of Object.entries(choices)) {
      const input = element("input", { type: "radio", name, value });
      input.addEventListener("change", () => choose(value));
      this.part[part].append(element("label", {}, input, element("span", { textContent: text })));
    }
  }

  inputOf(part, value) {
    return this.part[part].querySelector(`input[value="${value}"]`);
  }

  buildCard(place) {
    const [canvas, bar] = [element("canvas", { ariaHidden: "true" }), element("i")];
    const [tint, name] = [element("i"), new Text()];
    const button = element("button", { type: "button" }, canvas, element("span", { className: "weight" }, bar));
    button.append(element("span", { className: "name" }, tint, name));
    button.addEventListener("click", () => {
      const { focus, pin } = this.scene;
      if (!same(focus, pin)) this.go({ pin: focus });
      this.chosen = place;
      this.need("focus");
    });
    const item = element("li", {}, button);
    this.part.cards.append(item);
    return { item, button, canvas, bar, tint, name };
  }

  buildRest() {
    const [bar, share] = [element("i"), new Text()];
    const name = element("span", { className: "name", textContent: "everything else" });
    const weight = element("span", { className: "weight" }, bar);
    const text = element("span", { className: "share" }, share);
    this.part.cards.append(element("li", { className: "rest" }, name, weight, text));
    return { bar, share };
  }
}

function writeCaption(caption, head, text) {
  caption.replaceChildren(element("b", { textContent: head }), text);
}

/** Report where along a frame's width an element is dragged, 0 to 1. */
function onDrag(node, frame, onShare) {
  const follow = (event) => {
    const { left, width } = frame.getBoundingClientRect();
    onShare((event.clientX - left) / width);
  };
  node.addEventListener("pointerdown", (event) => {
    node.setPointerCapture(event.pointerId);
    node.focus({ preventScroll: true });
    event.preventDefault();
    follow(event);
  });
  node.addEventListener("pointermove", (event) => node.hasPointerCapture(event.pointerId) && follow(event));
}
