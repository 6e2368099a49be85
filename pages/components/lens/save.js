/** Saving a view as a picture, in the browser. */

import { newCanvas } from "./paint.js";

const MARGIN = 32;
const FIGURE = 480;
const CARD = 104;

/**
 * Lay figures with captions, a line on the pixel, and source cards out on one PNG and download it.
 *
 * @param title first line, and the file's name
 * @param figures [{layers: canvases on top of each other, caption}]
 * @param line about the pixel
 * @param cards [{canvas, name}]
 * @param legend {colours, ticks, extent} of the first figure, or null
 * @param ratio height over width of the images
 * @param theme {page, text, font}
 */
export function savePicture({ title, figures, legend, line, cards, ratio, theme }) {
  const width = 3 * MARGIN + 2 * FIGURE;
  const canvas = newCanvas(2 * width, 2 * Math.round(460 + FIGURE * ratio + CARD * ratio));
  const pen = canvas.getContext("2d");
  pen.fillStyle = theme.page;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.scale(2, 2);
  pen.imageSmoothingEnabled = false;
  pen.fillStyle = theme.text;
  const write = (text, x, y, room, size = 14) => {
    pen.font = `${size}px ${theme.font}`;
    return writeWrapped(pen, text, x, y, room, 1.4 * size);
  };
  const top = write(title, MARGIN, MARGIN + 12, width - 2 * MARGIN, 18) + 2;
  const ends = figures.map(({ layers, caption }, place) => {
    const x = MARGIN + place * (FIGURE + MARGIN);
    for (const layer of layers) pen.drawImage(layer, x, top, FIGURE, FIGURE * ratio);
    const below = top + FIGURE * ratio + 22;
    if (legend && place === 0) drawLegend(pen, legend, x, below - 12, theme);
    return write(caption, x, below + (legend ? 34 : 0), FIGURE);
  });
  let y = write(line, MARGIN, Math.max(...ends) + 14, width - 2 * MARGIN) + 2;
  cards.forEach(({ canvas: card, name }, place) => {
    const x = MARGIN + place * (CARD + 20);
    pen.drawImage(card, x, y, CARD, CARD * ratio);
    write(name, x, y + CARD * ratio + 18, CARD + 16, 12);
  });
  if (cards.length) y += CARD * ratio + 30;
  const cut = newCanvas(canvas.width, Math.min(canvas.height, Math.round(2 * (y + MARGIN / 2))));
  cut.getContext("2d").drawImage(canvas, 0, 0);
  cut.toBlob((blob) => download(blob, `${title.toLowerCase().replace(/[^a-z0-9]+/g, "-")}.png`));
}

/** Draw a colour bar with its ticks below. */
function drawLegend(pen, { colours, ticks, extent = 1 }, x, y, theme) {
  const gradient = pen.createLinearGradient(x, 0, x + FIGURE, 0);
  colours.forEach((colour, place) => gradient.addColorStop(place / (colours.length - 1), colour));
  pen.fillStyle = gradient;
  pen.fillRect(x, y, FIGURE, 10);
  pen.fillStyle = theme.text;
  pen.font = `12px ${theme.font}`;
  ticks.forEach((tick, place) => {
    const share = place / (ticks.length - 1);
    pen.fillText(tick, x + share * (extent * FIGURE - pen.measureText(tick).width), y + 24);
  });
}

/** Write text in lines no wider than `room`; return where the next line would stand. */
function writeWrapped(pen, text, x, y, room, leading) {
  let line = "";
  for (const word of text.split(" ")) {
    const longer = line ? `${line} ${word}` : word;
    if (line && pen.measureText(longer).width > room) {
      pen.fillText(line, x, y);
      [line, y] = [word, y + leading];
    } else line = longer;
  }
  pen.fillText(line, x, y);
  return y + leading;
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
