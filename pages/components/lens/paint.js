/** What the lens draws. A scene is {model, view, step, kind, mosaic, wipe, focus, hover, pin}; a pixel is [y, x]. */

import { chosenSource, differenceAt, effectiveShare, frameOf, rangeOf, sliceOf } from "./model.js";
import { decimal } from "./words.js";

const CIVIDIS = "#00224e #123570 #3b496c #575d6d #707173 #8a8678 #a59c74 #c3b369 #e1cc55 #fee838".split(" ");
// Lightness rises from one end to the other, so that the sign is told without hue.
const DIVERGING = ["#0a1c4a", "#23529f", "#8b8d93", "#e39a45", "#fff1d6"];
const ACCENT = "#ffab1a";
const PIN = "#2f4fd0";
const PINNED_WINDOW = "#9db1ff";

// -- colours ----------------------------------------------------------------------------------------------------------

/** Return a function from [0, 1] to a colour of the ramp. */
function ramp(stops) {
  const colours = stops.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return (share) => {
    const place = Math.min(1, Math.max(0, share)) * (colours.length - 1);
    const low = Math.min(colours.length - 2, Math.floor(place));
    return colours[low].map((a, c) => a + (colours[low + 1][c] - a) * (place - low));
  };
}

const cividis = ramp(CIVIDIS);
const diverging = ramp(DIVERGING);

/** OKLCH to sRGB bytes (Ottosson 2020): equal lightness looks equally light in every hue. */
function oklch(lightness, chroma, hue) {
  const a = chroma * Math.cos(2 * Math.PI * hue);
  const b = chroma * Math.sin(2 * Math.PI * hue);
  const l = (lightness + 0.3963 * a + 0.2158 * b) ** 3;
  const m = (lightness - 0.1056 * a - 0.0639 * b) ** 3;
  const s = (lightness - 0.0895 * a - 1.2915 * b) ** 3;
  const red = 4.0767 * l - 3.3077 * m + 0.231 * s;
  const green = -1.2684 * l + 2.6098 * m - 0.3413 * s;
  const blue = -0.0042 * l - 0.7034 * m + 1.7076 * s;
  const encode = (v) => 255 * (v <= 0.0031 ? 12.92 * Math.max(0, v) : 1.055 * Math.min(1, v) ** (1 / 2.4) - 0.055);
  return [encode(red), encode(green), encode(blue)];
}

/** A source's colour at a lightness: ids that follow each other get far apart hues, the same in every run. */
function tint(id, light) {
  return oklch(0.34 + 0.54 * light, 0.125 - 0.03 * Math.abs(light - 0.5), (id * 0.61803398875) % 1);
}

export const swatch = (id) => `rgb(${tint(id, 0.6).map(Math.round).join(" ")})`;

// -- pictures ---------------------------------------------------------------------------------------------------------

export function newCanvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

/** Give a canvas as many device pixels as it covers on the screen. */
export function fit(canvas, cssWidth, cssHeight) {
  const [width, height] = [cssWidth, cssHeight].map((size) => Math.max(1, Math.round(size * devicePixelRatio)));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
}

/** Draw one colour per pixel: `colourAt(i)` gives [r, g, b]. */
function picture({ width, height }, colourAt) {
  const canvas = newCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const colour = colourAt(i);
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = colour[c];
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function pictureOf(model, bytes) {
  const second = model.channels > 2 ? model.cells : 0;
  return picture(model, (i) => [bytes[i], bytes[i + second], bytes[i + 2 * second]]);
}

export const pictureAt = ({ model, kind, step }, images) => pictureOf(model, frameOf(model, images, kind, step));

/** The pictures of a film, one estimate for each step. */
export function filmOf(model, images) {
  return Array.from({ length: model.done }, (_, step) => pictureAt({ model, kind: "denoised", step }, images));
}

/** Paint a small picture over a whole canvas, every pixel a crisp rectangle. */
function enlarge(canvas, small) {
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  return context;
}

// -- lines and hatches ------------------------------------------------------------------------------------------------

/** Where the borders of image pixels fall on a canvas: `box(x0, y0, x1, y1)` in image pixels → [x, y, w, h]. */
function gridOf(model, canvas) {
  const px = (x) => Math.round((x * canvas.width) / model.width);
  const py = (y) => Math.round((y * canvas.height) / model.height);
  return { px, py, box: (x0, y0, x1, y1) => [px(x0), py(y0), px(x1) - px(x0), py(y1) - py(y0)] };
}

function hatch(context, colour) {
  const size = Math.round(6 * devicePixelRatio);
  const pen = newCanvas(size, size).getContext("2d");
  pen.strokeStyle = colour;
  pen.lineWidth = Math.max(1, 0.9 * devicePixelRatio);
  for (const shift of [-size, 0, size]) {
    pen.moveTo(shift, size);
    pen.lineTo(shift + size, 0);
  }
  pen.stroke();
  return context.createPattern(pen.canvas, "repeat");
}

function fillHatched(canvas) {
  const context = canvas.getContext("2d");
  for (const style of ["#808080", hatch(context, "#a6a6a6")]) {
    context.fillStyle = style;
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
}

/** Hatch the muted pixels: they have no single source. */
function hatchMuted(context, model, canvas, muted) {
  const grid = gridOf(model, canvas);
  context.beginPath();
  for (let i = 0; i < model.cells; i++) {
    const [x, y] = [i % model.width, Math.floor(i / model.width)];
    if (muted[i]) context.rect(...grid.box(x, y, x + 1, y + 1));
  }
  context.fillStyle = hatch(context, "rgb(128 128 128 / .4)");
  context.fill();
}

/** Stroke the current path twice, dark below the colour, so that it shows on any image. */
function strokeCased(context, colour, width) {
  const strokes = [["rgb(0 0 0 / .6)", width + 2], [colour, width]];
  for (const [style, cssWidth] of strokes) {
    context.strokeStyle = style;
    context.lineWidth = cssWidth * devicePixelRatio;
    context.stroke();
  }
}

/** Trace the borders between pixels for which `differ(i, j)`; the image's own border counts at pixels `outer(i)`. */
function traceBorders(context, model, canvas, differ, outer = () => false) {
  const { width, height } = model;
  const { px, py } = gridOf(model, canvas);
  const line = (x0, y0, x1, y1) => {
    context.moveTo(px(x0), py(y0));
    context.lineTo(px(x1), py(y1));
  };
  context.beginPath();
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const i = y * width + x;
      if (x + 1 < width ? differ(i, i + 1) : outer(i)) line(x + 1, y, x + 1, y + 1);
      if (y + 1 < height ? differ(i, i + width) : outer(i)) line(x, y + 1, x + 1, y + 1);
      if (x === 0 && outer(i)) line(0, y, 0, y + 1);
      if (y === 0 && outer(i)) line(x, 0, x + 1, 0);
    }
}

/** Trace the P×P window around a pixel as this machine sees it: bounded by the image, around it, or all of it. */
function traceWindow(context, model, canvas, [y, x], patch) {
  const { width, height, window: mode } = model;
  const { box } = gridOf(model, canvas);
  const reach = (patch - 1) / 2;
  const [left, top, right, bottom] = [x - reach, y - reach, x + reach + 1, y + reach + 1];
  context.beginPath();
  if (mode === "whole" || (patch >= width && patch >= height)) context.rect(...box(0, 0, width, height));
  else if (mode === "clip")
    context.rect(...box(Math.max(0, left), Math.max(0, top), Math.min(width, right), Math.min(height, bottom)));
  else
    for (const dy of [-height, 0, height])
      for (const dx of [-width, 0, width]) context.rect(...box(left + dx, top + dy, right + dx, bottom + dy));
}

function traceCell(context, model, canvas, [y, x]) {
  context.beginPath();
  context.rect(...gridOf(model, canvas).box(x, y, x + 1, y + 1));
}

/** Draw a map pin with its tip in the middle of a pixel. */
function drawPin(context, model, canvas, [y, x]) {
  context.save();
  context.translate(((x + 0.5) * canvas.width) / model.width, ((y + 0.5) * canvas.height) / model.height);
  context.scale(devicePixelRatio, devicePixelRatio);
  if ((y * canvas.height) / model.height < 22 * devicePixelRatio) context.rotate(Math.PI); // no room above
  context.beginPath();
  context.moveTo(0, 0);
  context.bezierCurveTo(-3, -6, -7, -9, -7, -14);
  context.arc(0, -14, 7, Math.PI, 0);
  context.bezierCurveTo(7, -9, 3, -6, 0, 0);
  Object.assign(context, { fillStyle: PIN, strokeStyle: "white", lineWidth: 1.5 });
  context.fill();
  context.stroke();
  context.beginPath();
  context.arc(0, -14, 2.5, 0, 2 * Math.PI);
  context.fillStyle = "white";
  context.fill();
  context.restore();
}

// -- the views --------------------------------------------------------------------------------------------------------

/** Paint the left figure in the scene's view. */
export function paintView(canvas, scene) {
  const own = pictureAt(scene, scene.model.machine_images);
  const paint = { mosaic: paintMosaic, stitched: paintStitched, sources: paintSources, difference: paintDifference };
  if (paint[scene.view]) paint[scene.view](canvas, scene);
  else enlarge(canvas, own);
  if (scene.view === "wipe") paintWiped(canvas, scene);
}

/** Paint the right figure: the network's image, if there is one. */
export function paintNetwork(canvas, scene) {
  if (scene.model.hasNetwork) enlarge(canvas, pictureAt(scene, scene.model.network));
  else canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
}

/** Tiles: the source gives the hue, the image the lightness, so that it stays visible. */
function paintMosaic(canvas, { model, step, kind, mosaic }) {
  const { cells, channels } = model;
  const bytes = frameOf(model, model.machine_images, kind, step);
  const [label, muted] = [mosaic.label, model.muted].map((table) => sliceOf(model, table, step));
  const light = (i) => {
    let sum = 0;
    for (let c = 0; c < channels; c++) sum += bytes[c * cells + i];
    return sum / (255 * channels);
  };
  let brightness = 0;
  for (let i = 0; i < cells; i++) brightness += light(i) / cells;
  const colourAt = (i) =>
    muted[i] ? oklch(0.3 + 0.5 * light(i), 0, 0) : tint(chosenSource(model, mosaic, step, i), light(i));
  const context = enlarge(canvas, picture(model, colourAt));
  hatchMuted(context, model, canvas, muted);
  traceBorders(context, model, canvas, (i, j) => label[i] !== label[j]);
  context.strokeStyle = brightness < 0.55 ? "rgb(255 255 255 / .85)" : "rgb(10 15 30 / .8)";
  context.lineWidth = Math.max(1, Math.round(devicePixelRatio));
  context.stroke();
}

function paintStitched(canvas, { model, step, mosaic }) {
  const stitched = mosaic.stitched.subarray(step * model.frame, (step + 1) * model.frame);
  const context = enlarge(canvas, pictureOf(model, stitched));
  hatchMuted(context, model, canvas, sliceOf(model, model.muted, step));
}

function paintSources(canvas, { model, step }) {
  enlarge(canvas, picture(model, (i) => cividis(effectiveShare(model, step, i))));
}

function paintDifference(canvas, { model, step, kind }) {
  const [machine, network] = [model.machine_images, model.network].map((images) => frameOf(model, images, kind, step));
  const scale = rangeOf(model, kind, step) / model.differenceLimit / 2;
  enlarge(canvas, picture(model, (i) => diverging(0.5 + scale * differenceAt(model, machine, network, i))));
}

/** Cover what lies right of the divider with the network's image. */
function paintWiped(canvas, scene) {
  const context = canvas.getContext("2d");
  const at = Math.round(scene.wipe * canvas.width);
  context.save();
  context.beginPath();
  context.rect(at, 0, canvas.width - at, canvas.height);
  context.clip();
  enlarge(canvas, pictureAt(scene, scene.model.network));
  context.restore();
}

/** The colours and ticks that explain a view, null where greys explain themselves. */
export function legendOf({ model, view }) {
  const limit = decimal(model.differenceLimit);
  if (view === "difference")
    return { colours: DIVERGING, ticks: [`−${limit} network brighter`, "0", `theory brighter +${limit}`] };
  if (view !== "sources") return null;
  const stride = Math.ceil(model.decades / 4);
  const powers = Array.from({ length: model.decades + 1 }, (_, power) => power).filter((power) => power % stride === 0);
  const ticks = powers.map((power) => (10 ** power).toLocaleString("en"));
  return { colours: CIVIDIS, ticks, extent: powers.at(-1) / model.decades };
}

/** Draw crosshair, window and pin over a figure; in a mosaic also the tile under the pixel. */
export function paintOverlay(canvas, scene, ofMachine) {
  const { model, view, step, focus, hover, pin } = scene;
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!ofMachine && !model.hasNetwork) return;
  const patch = model.patch_sizes[step];
  if (ofMachine && ["mosaic", "stitched"].includes(view)) drawTile(context, canvas, scene);
  if (pin && hover && hover.join() !== pin.join()) {
    traceWindow(context, model, canvas, pin, patch);
    context.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    strokeCased(context, PINNED_WINDOW, 1.5);
    context.setLineDash([]);
  }
  if (hover || !pin) drawCrosshair(context, model, canvas, focus);
  traceWindow(context, model, canvas, focus, patch);
  strokeCased(context, ACCENT, 2);
  traceCell(context, model, canvas, focus);
  strokeCased(context, "white", 1);
  if (pin) drawPin(context, model, canvas, pin);
}

function drawCrosshair(context, model, canvas, [y, x]) {
  const { px, py } = gridOf(model, canvas);
  context.fillStyle = "rgb(255 171 26 / .55)";
  context.fillRect(px(x + 0.5), 0, devicePixelRatio, canvas.height);
  context.fillRect(0, py(y + 0.5), canvas.width, devicePixelRatio);
}

function drawTile(context, canvas, { model, step, mosaic, focus }) {
  const here = focus[0] * model.width + focus[1];
  const label = sliceOf(model, mosaic.label, step);
  const own = label[here];
  if (sliceOf(model, model.muted, step)[here]) return;
  const differ = (i, j) => (label[i] === own) !== (label[j] === own);
  traceBorders(context, model, canvas, differ, (i) => label[i] === own);
  strokeCased(context, "white", 2.5);
}

/** Draw the film, a row for each of `films`; steps to come stay empty. */
export function paintStrip(canvas, model, films, frames, empty) {
  const context = canvas.getContext("2d");
  const [wide, tall] = [canvas.width / frames, canvas.height / films.length];
  const gap = Math.round(1.5 * devicePixelRatio);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.fillStyle = empty;
  for (let place = 0; place < frames; place++) {
    const step = frames === 1 ? 0 : Math.round((place * (model.steps - 1)) / (frames - 1));
    films.forEach((pictures, row) => {
      const corner = [Math.round(place * wide) + gap, Math.round(row * tall) + gap];
      const size = [Math.round(wide) - 2 * gap, Math.round(tall) - 2 * gap];
      if (step < model.done) context.drawImage(pictures[step], ...corner, ...size);
      else context.fillRect(...corner, ...size);
    });
  }
}

// -- sources ----------------------------------------------------------------------------------------------------------

/** Draw a source's thumbnail over a canvas, or a hatch where its picture was not sent. */
function drawSource(canvas, { sources, atlas, width, height }, index) {
  const context = canvas.getContext("2d");
  if (index >= sources.pictured) return fillHatched(canvas);
  const [column, row] = [index % sources.columns, Math.floor(index / sources.columns)];
  context.imageSmoothingEnabled = false;
  context.drawImage(atlas, column * width, row * height, width, height, 0, 0, canvas.width, canvas.height);
}

/** Draw a source with the patch that was copied from. */
export function paintSource(canvas, { model, step }, { index, place }) {
  const context = canvas.getContext("2d");
  drawSource(canvas, model, index);
  traceWindow(context, model, canvas, place, model.patch_sizes[step]);
  strokeCased(context, ACCENT, 1.5);
  if (model.window !== "whole") return;
  traceCell(context, model, canvas, place);
  strokeCased(context, "white", 1);
}

/** Enlarge the patch of a source. */
export function paintPatch(canvas, scene, { index, place }) {
  const small = newCanvas(scene.model.width, scene.model.height);
  drawSource(small, scene.model, index);
  paintWindow(canvas, scene, small, place);
}

/** Enlarge the machine's own window around a pixel. */
export function paintOwnWindow(canvas, scene, pixel) {
  paintWindow(canvas, scene, pictureAt(scene, scene.model.machine_images), pixel);
}

/** Enlarge the window around a pixel of a picture; what lies outside the image is hatched. */
function paintWindow(canvas, { model, step }, small, [y, x]) {
  const { width, height, window: mode } = model;
  const whole = mode === "whole";
  const span = whole ? Math.max(width, height) : model.patch_sizes[step];
  const scale = canvas.width / span;
  const [left, top] = whole ? [0, 0] : [x - (span - 1) / 2, y - (span - 1) / 2];
  const context = canvas.getContext("2d");
  fillHatched(canvas);
  context.imageSmoothingEnabled = false;
  const turns = mode === "wrap" ? Math.ceil(span / Math.min(width, height)) : 0;
  for (let dy = -turns; dy <= turns; dy++)
    for (let dx = -turns; dx <= turns; dx++) {
      const corner = [Math.round((dx * width - left) * scale), Math.round((dy * height - top) * scale)];
      context.drawImage(small, ...corner, Math.round(width * scale), Math.round(height * scale));
    }
  context.beginPath();
  context.rect(Math.round((x - left) * scale), Math.round((y - top) * scale), Math.round(scale), Math.round(scale));
  strokeCased(context, ACCENT, 1.5);
}
