/**
 * A grid of pixels. The page sends `data` = {token, mode, width, height, channels, initial, background, outline, pixel,
 * action, label}; mode is "draw" (the trigger `painted` hears C·H·W bytes, base64), "mask" (H·W bytes, 1 where marked)
 * or "pick" (the state `pixel` hears [y, x]). A painting is the visitor's until the page sends another token.
 *
 * Keyboard: arrows move the cursor, the space bar paints or chooses.
 */

const BRUSHES = [1, 2, 3, 5, 8];
const GREYS = [["White", "#ffffff"], ["Grey", "#808080"], ["Black", "#000000"]];
const COLOURS = [["White", "#ffffff"], ["Black", "#000000"], ["Red", "#d7263d"], ["Yellow", "#ffc93c"], ["Green", "#2e8b57"], ["Blue", "#2f6fd0"], ["Brown", "#8a5a33"]];
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const ACCENT = "#ffab1a";
const mounted = new WeakMap();

export default function paintComponent({ data, parentElement, setStateValue, setTriggerValue }) {
  const root = parentElement.querySelector(".paint");
  let paint = mounted.get(root);
  if (!paint) mounted.set(root, (paint = new Paint(root)));
  paint.receive(data, { setStateValue, setTriggerValue });
  return () => setTimeout(() => root.isConnected || paint.destroy());
}

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const rgbOf = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function textOf(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

class Paint {
  constructor(root) {
    this.root = root;
    this.part = Object.fromEntries([...root.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
    const { overlay, stage } = this.part;
    overlay.addEventListener("pointerdown", (event) => this.take(event));
    overlay.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) overlay.addEventListener(end, () => this.lift());
    overlay.addEventListener("click", (event) => this.choose(event));
    overlay.addEventListener("pointerleave", () => this.hover(null));
    overlay.addEventListener("keydown", (event) => this.press(event));
    overlay.addEventListener("focus", () => overlay.matches(":focus-visible") && this.hover(this.cursor));
    overlay.addEventListener("blur", () => this.hover(null));
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(stage);
  }

  destroy() {
    this.observer.disconnect();
  }

  receive(data, calls) {
    const anew = !this.data || data.token !== this.data.token || data.mode !== this.data.mode;
    const repainted = !this.data || data.background !== this.data.background;
    Object.assign(this, calls, { data });
    this.root.dataset.mode = data.mode;
    this.part.stage.style.aspectRatio = `${data.width} / ${data.height}`;
    this.part.overlay.setAttribute("aria-label", `${data.label}; arrow keys move, space ${data.mode === "pick" ? "chooses" : "paints"}`);
    if (anew) this.restart();
    if (repainted) this.load(data.background);
    this.part.actions.querySelector(".main")?.replaceChildren(data.action);
    this.draw();
  }

  restart() {
    const { mode, width, height, channels, initial } = this.data;
    this.bytes = initial ? bytesOf(initial) : new Uint8Array(width * height * (mode === "draw" ? channels : 1));
    this.cursor ??= [height >> 1, width >> 1];
    this.brush ??= mode === "draw" ? 2 : 3;
    this.colour = mode === "draw" ? "#ffffff" : 1;
    if (mode !== "pick") this.buildTools();
  }

  load(address) {
    this.picture = null;
    if (!address) return;
    const image = new Image();
    image.onload = () => {
      this.picture = image;
      this.draw();
    };
    image.src = address;
  }

  // -- tools ----------------------------------------------------------------------------------------------------------

  buildTools() {
    const { mode, channels } = this.data;
    const sizes = BRUSHES.map((size) => {
      const dot = element("i");
      dot.style.width = dot.style.height = `${3 + 2 * size}px`;
      return this.button("brush", size, `Brush ${size} pixel${size > 1 ? "s" : ""} wide`, dot);
    });
    const inks = mode === "mask" ? [this.button("colour", 1, "Mark", "Mark"), this.button("colour", 0, "Unmark", "Unmark")] : (channels > 1 ? COLOURS : GREYS).map(([name, hex]) => this.swatch(name, hex));
    const tools = [...inks];
    if (mode === "draw" && channels > 1) {
      const own = element("input", { type: "color", value: "#ff8800", ariaLabel: "Another colour" });
      own.addEventListener("input", () => this.set("colour", own.value));
      tools.push(own);
    }
    this.part.tools.replaceChildren(...tools, element("span", { className: "gap" }), ...sizes);
    const clear = element("button", { type: "button", textContent: "Clear" });
    clear.addEventListener("click", () => {
      this.bytes.fill(0);
      this.draw();
      this.tell();
    });
    const done = element("button", { type: "button", className: "main", textContent: this.data.action });
    done.addEventListener("click", () => this.setTriggerValue("painted", textOf(this.bytes)));
    this.part.actions.replaceChildren(done, clear);
    this.showTools();
  }

  button(tool, value, label, content) {
    const node = element("button", { type: "button", title: label, ariaLabel: label }, content);
    Object.assign(node.dataset, { tool, value });
    node.addEventListener("click", () => this.set(tool, value));
    return node;
  }

  swatch(name, hex) {
    const dot = element("i");
    dot.style.background = hex;
    const node = this.button("colour", hex, name, dot);
    node.classList.add("swatch");
    return node;
  }

  set(tool, value) {
    this[tool] = value;
    this.showTools();
    this.draw();
  }

  showTools() {
    for (const node of this.part.tools.querySelectorAll("[data-tool]")) node.setAttribute("aria-pressed", String(this[node.dataset.tool]) === node.dataset.value);
  }

  // -- pointer and keys -----------------------------------------------------------------------------------------------

  at({ clientX, clientY }) {
    const box = this.part.overlay.getBoundingClientRect();
    const clip = (value, limit) => Math.max(0, Math.min(limit - 1e-3, value));
    return [clip(((clientY - box.top) / box.height) * this.data.height, this.data.height), clip(((clientX - box.left) / box.width) * this.data.width, this.data.width)];
  }

  take(event) {
    if (event.button || this.data.mode === "pick") return;
    const place = this.at(event);
    event.preventDefault();
    this.part.overlay.focus({ preventScroll: true });
    this.part.overlay.setPointerCapture(event.pointerId);
    this.stroke = place;
    this.dab(...place);
    this.hover(place.map(Math.floor));
  }

  lift() {
    if (this.stroke) this.tell();
    this.stroke = null;
  }

  /** A pixel is chosen by a click, which a finger that scrolls the page does not make. */
  choose(event) {
    if (this.data.mode === "pick") this.pick(this.at(event).map(Math.floor));
  }

  move(event) {
    const place = this.at(event);
    if (this.stroke) {
      const [y, x] = this.stroke;
      const [dy, dx] = [place[0] - y, place[1] - x];
      const count = Math.max(1, Math.ceil(Math.hypot(dy, dx) / 0.5));
      for (let i = 1; i <= count; i++) this.dab(y + (dy * i) / count, x + (dx * i) / count);
      this.stroke = place;
    }
    this.hover(place.map(Math.floor));
  }

  press(event) {
    if (event.key in ARROWS) {
      const [dy, dx] = ARROWS[event.key];
      const { height, width } = this.data;
      this.cursor = [Math.max(0, Math.min(height - 1, this.cursor[0] + dy)), Math.max(0, Math.min(width - 1, this.cursor[1] + dx))];
      this.pointed = this.cursor;
    } else if (event.key === " " || event.key === "Enter") {
      if (this.data.mode === "pick") this.pick(this.cursor);
      else this.dab(this.cursor[0] + 0.5, this.cursor[1] + 0.5);
      this.pointed = this.cursor;
    } else return;
    event.preventDefault();
    event.stopPropagation();
    this.draw();
    this.tell();
  }

  hover(pixel) {
    this.pointed = pixel;
    if (pixel) this.cursor = pixel;
    this.draw();
  }

  pick(pixel) {
    this.cursor = pixel;
    this.data.pixel = pixel;
    this.draw();
    this.tell();
    this.setStateValue("pixel", pixel);
  }

  /** Paint a disc: hard in a mask, with soft edges in a drawing. */
  dab(y, x) {
    const { width, height, channels, mode } = this.data;
    const radius = this.brush / 2;
    const colour = mode === "draw" ? rgbOf(this.colour) : null;
    for (let i = Math.max(0, Math.floor(y - radius - 1)); i < Math.min(height, y + radius + 1); i++)
      for (let j = Math.max(0, Math.floor(x - radius - 1)); j < Math.min(width, x + radius + 1); j++) {
        const cover = Math.max(0, Math.min(1, radius + 0.5 - Math.hypot(i + 0.5 - y, j + 0.5 - x)));
        const inside = cover >= 0.5 || (i === Math.floor(y) && j === Math.floor(x));
        if (mode === "mask") {
          if (inside) this.bytes[i * width + j] = this.colour;
        } else
          for (let c = 0; c < channels; c++) {
            const at = c * width * height + i * width + j;
            this.bytes[at] = Math.round(this.bytes[at] + (colour[c] - this.bytes[at]) * cover);
          }
      }
    this.draw();
  }

  // -- drawing --------------------------------------------------------------------------------------------------------

  draw() {
    if (!this.data) return;
    const { picture, overlay, said } = this.part;
    const { width, height, mode, pixel } = this.data;
    const side = [this.part.stage.clientWidth, this.part.stage.clientHeight].map((size) => Math.max(1, Math.round(size * devicePixelRatio)));
    if (overlay.width !== side[0] || overlay.height !== side[1]) [overlay.width, overlay.height] = side;
    if (picture.width !== width || picture.height !== height) Object.assign(picture, { width, height });
    this.drawPicture(picture.getContext("2d"));
    const pen = overlay.getContext("2d");
    pen.clearRect(0, 0, overlay.width, overlay.height);
    if (mode === "mask") {
      this.tint(pen, this.bytes);
      this.border(pen, this.bytes);
    }
    if (this.data.outline) this.border(pen, (this.outline = this.outlineText === this.data.outline ? this.outline : bytesOf((this.outlineText = this.data.outline))));
    if (pixel) this.cell(pen, pixel, ACCENT, 3);
    if (this.pointed) this.cell(pen, this.pointed, "#fff", 1.5);
    said.textContent = this.words();
  }

  /** Speak to screen readers: after a key, a stroke or a choice, not while a pointer wanders. */
  tell() {
    this.part.spoken.textContent = this.words();
  }

  words() {
    const { mode, pixel } = this.data;
    const where = this.pointed ?? (mode === "pick" ? pixel : null);
    const spoken = where ? `row ${where[0] + 1}, column ${where[1] + 1}` : "";
    if (mode !== "mask") return spoken || (mode === "pick" ? "Click or tap a pixel." : "");
    return `${this.bytes.reduce((sum, one) => sum + one, 0)} pixels marked${spoken ? ` · ${spoken}` : ""}`;
  }

  drawPicture(context) {
    const { width, height, channels, mode } = this.data;
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = false;
    if (mode !== "draw") return this.picture && context.drawImage(this.picture, 0, 0, width, height);
    const image = context.createImageData(width, height);
    const cells = width * height;
    for (let i = 0; i < cells; i++) {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = this.bytes[i + (channels > 2 ? c : 0) * cells];
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }

  box([y, x], rows = 1, columns = 1) {
    const { overlay } = this.part;
    const [px, py] = [overlay.width / this.data.width, overlay.height / this.data.height];
    return [x * px, y * py, columns * px, rows * py];
  }

  cell(pen, pixel, colour, line) {
    for (const [style, width] of [["rgb(0 0 0 / .7)", line + 2], [colour, line]]) {
      pen.strokeStyle = style;
      pen.lineWidth = width * devicePixelRatio;
      pen.strokeRect(...this.box(pixel));
    }
  }

  tint(pen, mask) {
    const { width } = this.data;
    pen.fillStyle = "rgb(255 171 26 / .35)";
    mask.forEach((marked, i) => marked && pen.fillRect(...this.box([Math.floor(i / width), i % width])));
  }

  /** Trace the border of a region, dark below the colour so that it shows on any picture. */
  border(pen, mask) {
    const { width, height } = this.data;
    const inside = (y, x) => y >= 0 && x >= 0 && y < height && x < width && mask[y * width + x];
    pen.beginPath();
    for (let y = 0; y <= height; y++)
      for (let x = 0; x <= width; x++) {
        const [left, top, wide, tall] = this.box([y, x]);
        if (!inside(y, x) !== !inside(y - 1, x)) pen.moveTo(left, top), pen.lineTo(left + wide, top);
        if (!inside(y, x) !== !inside(y, x - 1)) pen.moveTo(left, top), pen.lineTo(left, top + tall);
      }
    for (const [style, line] of [["rgb(0 0 0 / .7)", 4], [ACCENT, 2]]) {
      pen.strokeStyle = style;
      pen.lineWidth = line * devicePixelRatio;
      pen.stroke();
    }
  }
}
