"use strict";
// The viewer of a case: columns of linked planes and their controls. It reads the JSON beside it (report/viewer.py), and nothing
// else. planes.js comes first and does the geometry, the colours and the drawing.

const HINT =
  "Click or drag: crosshair. Wheel or arrow keys (after a click): slices. Right drag or Shift and drag: window and level." +
  " Esc frees the wheel.";
const WIDTHS = [5, 250], LEVELS = [-20, 120]; // of the grey window, in percent of the one that the page was written with

class Viewer {
  constructor(root) {
    this.root = root;
    this.figure = root.closest("figure");
    this.started = null;
  }

  /** Build and decode, once; resolves when the case can be used. */
  start() {
    this.started ??= this.open().catch((error) => {
      const words = `The viewer could not start: ${error.message}. The still picture below shows this case.`;
      this.root.replaceChildren(element("p", { class: "viewer-note", role: "alert" }, words));
      throw error;
    });
    return this.started;
  }

  async open() {
    const data = (this.data = JSON.parse(document.getElementById(this.root.dataset.payload).textContent));
    this.name = data.name;
    this.grid = new Grid(data.shape, data.spacing);
    this.position = [...data.centre];
    this.active = "axial";
    this.shown = window.innerWidth < 640 ? "axial" : "all";
    this.chosen = "truth"; // whose grey window the sliders show
    this.setDefaults();
    this.columns = data.columns.map((column) => ({ ...column, visible: true, panels: {} }));
    this.colours = new Uint8Array(data.colours.match(/../g).map((pair) => parseInt(pair, 16)));
    this.build();
    await this.decode();
    this.root.classList.add("ready");
    this.resize();
    new ResizeObserver(() => this.resize()).observe(this.frame);
    return this;
  }

  async decode() {
    const { images, labels, shape, across: wide } = this.data, names = Object.keys(images);
    this.volumes = {};
    this.labels = await decode(labels, shape, wide);
    // browsers that guard against fingerprinting hand out noise
    if (!this.labels.includes(128)) throw new Error("this browser does not let pages read pictures");
    for (const [i, name] of names.entries()) {
      this.status.textContent = `decoding image ${i + 1} of ${names.length}`;
      this.volumes[name] = await decode(images[name], shape, wide);
      this.draw();
    }
    this.status.textContent = "";
  }

  /** Every input has a grey window of its own; truth and predictions share one: so their brightness can be compared. */
  setDefaults() {
    this.greys = {};
    for (const column of this.data.columns) this.greys[this.greyOf(column)] = { width: 100, level: 50 };
  }

  greyOf(column) {
    return column.kind === "source" ? column.image : "truth";
  }

  // ---- the page's elements ----

  build() {
    const { name, lesion } = this.data;
    this.status = element("span", { class: "status", role: "status" });
    const planes = element("div", { class: "controls" }, this.planeChoice());
    this.sliders = Object.fromEntries(PLANES.map((plane) => [plane, this.planeSlider(planes, plane)]));
    const grey = element("div", { class: "controls" }, this.windowChoice());
    this.widthSlider = this.slider(grey, "Window", ...WIDTHS, (value) => this.setWindow(value, this.greys[this.chosen].level));
    this.levelSlider = this.slider(grey, "Level", ...LEVELS, (value) => this.setWindow(this.greys[this.chosen].width, value));
    grey.append(this.button("Reset", () => this.reset()));
    this.cross = this.checkbox(grey, "crosshair", true);
    this.outline = lesion ? this.checkbox(grey, "lesion outline", true) : null;
    this.signed = this.checkbox(grey, "signed error", false);
    const images = element("div", { class: "controls", role: "group", "aria-label": "Images shown" });
    for (const column of this.columns) this.checkbox(images, column.title, true, (on) => this.showColumn(column, on));
    const words = `Images of ${name}. Arrow keys move through the outlined plane, the wheel too.`;
    this.frame = element("div", { class: "panels", tabindex: 0, role: "group", "aria-label": words });
    for (const column of this.columns) this.frame.append(this.buildColumn(column));
    this.root.replaceChildren(planes, grey, images, this.frame, this.legend());
    this.listen();
    this.layout();
  }

  button(words, pressed) {
    const button = element("button", { type: "button" }, words);
    button.addEventListener("click", pressed);
    return button;
  }

  planeChoice() {
    this.choices = { all: this.button("3 planes", () => this.show("all")) };
    for (const plane of PLANES) this.choices[plane] = this.button(plane, () => this.show(plane));
    return element("span", { class: "choice", role: "group", "aria-label": "Planes shown" }, ...Object.values(this.choices));
  }

  windowChoice() {
    const target = this.columns.find((column) => column.kind === "truth").title;
    this.select = element("select", { "aria-label": "image whose grey scale the sliders change" });
    this.select.append(element("option", { value: "truth" }, `${target} and predictions`));
    for (const column of this.columns) {
      if (column.kind === "source") this.select.append(element("option", { value: column.image }, column.title));
    }
    this.select.addEventListener("change", () => {
      this.chosen = this.select.value;
      this.draw();
    });
    return element("label", {}, "Grey scale of", this.select);
  }

  slider(parent, words, low, high, set) {
    const input = element("input", { type: "range", min: low, max: high, step: 1, "aria-label": words });
    const output = element("output");
    input.addEventListener("input", () => set(Number(input.value)));
    parent.append(element("label", { class: "slider" }, element("span", {}, words), input, output));
    return { input, output };
  }

  planeSlider(parent, plane) {
    const axis = AXIS[plane];
    return this.slider(parent, plane, 0, this.data.shape[axis] - 1, (value) => this.go(plane, value - this.position[axis]));
  }

  checkbox(parent, words, on, changed = () => {}) {
    const input = element("input", { type: "checkbox" });
    input.checked = on;
    input.addEventListener("change", () => {
      changed(input.checked);
      this.draw();
    });
    parent.append(element("label", { class: "check" }, input, words));
    return input;
  }

  buildColumn(column) {
    const { kind, title, subtitle } = column;
    column.readout = element("span", { class: "readout" });
    const head = element("div", { class: "column-head" }, element("strong", { title }, title));
    head.append(element("span", { title: subtitle }, subtitle), column.readout);
    column.element = element("div", { class: `column ${kind}` }, head);
    for (const plane of PLANES) {
      const words = `${title}, ${subtitle}, ${plane} plane`;
      column.panels[plane] = element("canvas", { role: "img", "aria-label": words, "data-plane": plane });
      column.element.append(column.panels[plane]);
    }
    return column.element;
  }

  legend() {
    const canvas = element("canvas", { width: 256, height: 1, role: "img", "aria-label": "colours of the error maps" });
    this.bar = { canvas, low: element("span"), high: element("span"), words: element("span") };
    this.grey = element("span");
    const bar = element("span", { class: "bar" }, this.bar.words, this.bar.low, canvas, this.bar.high);
    return element("div", { class: "legend" }, bar, this.grey, this.status, element("span", { class: "hint" }, HINT));
  }

  // ---- what the reader does ----

  listen() {
    for (const column of this.columns) {
      for (const [plane, canvas] of Object.entries(column.panels)) {
        canvas.addEventListener("pointerdown", (event) => this.press(event, canvas, plane, column));
        canvas.addEventListener("pointermove", (event) => event.buttons && this.drag(event, canvas, plane));
        canvas.addEventListener("contextmenu", (event) => event.preventDefault());
      }
    }
    this.frame.addEventListener("wheel", (event) => this.turn(event), { passive: false });
    this.frame.addEventListener("keydown", (event) => this.key(event));
    const map = this.figure.querySelector(".slices-plot");
    if (map) this.linkSlices(map);
  }

  press(event, canvas, plane, column) {
    this.frame.focus({ preventScroll: true });
    this.active = plane;
    canvas.setPointerCapture(event.pointerId);
    this.held = null;
    if (event.button !== 2 && !event.shiftKey) return this.pick(event, canvas, plane);
    this.chosen = this.greyOf(column);
    this.held = { x: event.clientX, y: event.clientY, ...this.greys[this.chosen] };
  }

  drag(event, canvas, plane) {
    if (!this.held) return this.pick(event, canvas, plane);
    const { x, y, width, level } = this.held;
    this.setWindow(width * 2 ** ((event.clientX - x) / 120), level + (event.clientY - y) / 3);
  }

  pick(event, canvas, plane) {
    const area = canvas.getBoundingClientRect(), ratio = canvas.width / area.width;
    const x = (event.clientX - area.left) * ratio, y = (event.clientY - area.top) * ratio;
    this.moveTo(this.grid.voxelAt(canvas, plane, this.shown === "all", x, y, this.position));
  }

  turn(event) {
    const plane = event.target.dataset.plane;
    // the page scrolls as usual until the reader has clicked into this case
    if (!plane || event.ctrlKey || document.activeElement !== this.frame) return;
    event.preventDefault();
    this.wheel = (this.wheel ?? 0) + (event.deltaMode ? event.deltaY * 30 : event.deltaY);
    const steps = Math.trunc(this.wheel / 30);
    this.wheel -= steps * 30;
    if (steps) this.go(plane, -clamp(steps, -3, 3));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const now = this.position[AXIS[this.active]], last = this.data.shape[AXIS[this.active]] - 1;
    const arrows = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 };
    const moves = { ...arrows, PageUp: 10, PageDown: -10, Home: -now, End: last - now };
    if (event.key === "Escape") this.frame.blur();
    else if (event.key in moves) this.go(this.active, moves[event.key]);
    else return;
    event.preventDefault();
  }

  /** Move a number of slices through a plane. */
  go(plane, steps) {
    this.active = plane;
    this.moveTo(this.position.map((old, axis) => (axis === AXIS[plane] ? old + steps : old)));
  }

  /** Put the crosshair on a voxel; outside the volume means its edge. */
  moveTo(position) {
    this.position = position.map((value, axis) => clamp(Math.round(value), 0, this.data.shape[axis] - 1));
    this.draw();
  }

  /** Set the grey window of the chosen image. */
  setWindow(width, level) {
    this.greys[this.chosen] = { width: clamp(Math.round(width), ...WIDTHS), level: clamp(Math.round(level), ...LEVELS) };
    this.draw();
  }

  reset() {
    this.setDefaults();
    this.moveTo(this.data.centre);
  }

  /** Show one plane large, or all three. */
  show(key) {
    this.shown = key;
    if (key !== "all") this.active = key;
    this.layout();
    this.resize();
  }

  showColumn(column, on) {
    column.visible = on;
    column.element.hidden = !on;
    this.resize();
  }

  /** Let a click on the plot of errors by slice lead there, and mark the slice that is shown. */
  linkSlices(map) {
    const [left, width, first, last] = ["left", "width", "first", "last"].map((key) => Number(map.dataset[key]));
    const { origin, step } = this.data;
    this.marker = element("span", { class: "slice-marker", "aria-hidden": "true" });
    this.markerShare = () => left + (width * (origin[2] + step * (this.position[2] + 0.5) - 0.5 - first)) / (last - first);
    map.append(this.marker);
    map.addEventListener("click", (event) => {
      const area = map.getBoundingClientRect();
      const share = clamp(((event.clientX - area.left) / area.width - left) / width, 0, 1);
      const slice = Math.floor((Math.round(first + share * (last - first)) - origin[2]) / step);
      this.go("axial", slice - this.position[2]);
    });
  }

  // ---- drawing ----

  layout() {
    for (const [key, button] of Object.entries(this.choices)) button.setAttribute("aria-pressed", String(key === this.shown));
    this.frame.classList.toggle("single", this.shown !== "all");
    for (const column of this.columns) {
      for (const plane of PLANES) column.panels[plane].hidden = this.shown !== "all" && this.shown !== plane;
    }
  }

  resize() {
    // one plane: as many rows as panels of a good size need, and rows of about equal length
    const count = this.columns.filter((column) => column.visible).length;
    const most = Math.max(2, Math.floor(this.frame.clientWidth / 260));
    const wide = this.shown === "all" ? count : Math.ceil(count / Math.ceil(count / most));
    this.frame.style.setProperty("--columns", Math.max(wide || 1, 1));
    for (const column of this.columns) {
      for (const [plane, canvas] of Object.entries(column.panels)) {
        const [mmAcross, mmDown] = this.grid.millimetres(plane, this.shown === "all");
        canvas.style.aspectRatio = `${mmAcross} / ${mmDown}`;
        const width = Math.round(canvas.clientWidth * density()), height = Math.round((width * mmDown) / mmAcross);
        if (width && (canvas.width !== width || canvas.height !== height)) Object.assign(canvas, { width, height });
      }
    }
    this.paint();
  }

  /** Ask for a drawing in the next frame; many asks make one. */
  draw() {
    this.asked ??= requestAnimationFrame(() => this.paint());
  }

  paint() {
    cancelAnimationFrame(this.asked);
    this.asked = null;
    if (!this.labels) return;
    const seen = this.columns.filter((column) => column.visible);
    const tables = seen.map((column) => this.table(column));
    for (const plane of PLANES) {
      if (this.shown !== "all" && this.shown !== plane) continue;
      const walk = this.grid.walk(plane, this.position);
      const edges = this.outline?.checked ? lesionEdges(this.labels, walk) : [];
      for (const [i, column] of seen.entries()) this.panel(column, plane, walk, edges, tables[i]);
    }
    this.words();
  }

  table(column) {
    if (column.kind === "error") return errorTable(column.range, this.data.top, this.colours, this.signed.checked);
    return greyTable(column.range, this.limits(column));
  }

  /** The values that are black and white in an image. */
  limits(column) {
    const [low, high] = column.window, room = high - low, { width, level } = this.greys[this.greyOf(column)];
    const middle = low + (level / 100) * room;
    return [middle - (width / 200) * room, middle + (width / 200) * room];
  }

  panel(column, plane, walk, edges, table) {
    const canvas = column.panels[plane], context = canvas.getContext("2d");
    const volume = this.volumes[column.image], truth = this.volumes.truth, isError = column.kind === "error";
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!volume || (isError && !truth)) return; // not decoded yet
    const place = this.grid.place(canvas, plane, this.shown === "all");
    drawPlane(canvas, place, walk, this.labels, volume, isError ? truth : null, table);
    const [sx, sy] = place.scale;
    const lines = edges.map(([x0, y0, x1, y1]) => [place.left + x0 * sx, y0 * sy, place.left + x1 * sx, y1 * sy]);
    drawLines(context, lines, this.data.outline, 1.2);
    if (this.cross.checked) drawCross(canvas, plane, place, this.position);
    drawLetters(canvas, plane);
  }

  // ---- everything that is written ----

  words() {
    const { origin, step, units } = this.data;
    for (const plane of PLANES) {
      const axis = AXIS[plane], { input, output } = this.sliders[plane];
      input.value = this.position[axis];
      output.textContent = origin[axis] + step * this.position[axis];
      for (const column of this.columns) column.panels[plane].classList.toggle("active", plane === this.active);
    }
    const { width, level } = this.greys[this.chosen];
    for (const [slider, value] of [[this.widthSlider, width], [this.levelSlider, level]]) {
      slider.input.value = value;
      slider.output.textContent = `${value} %`;
    }
    this.select.value = this.chosen;
    const one = this.columns.find((column) => column.image === this.chosen);
    const [black, white] = this.limits(one).map((value) => this.digits(value));
    this.grey.textContent = `Grey scale of ${one.title}: ${black} (black) to ${white} (white) ${units}`;
    for (const column of this.columns) column.readout.textContent = `at the cross: ${this.valueAt(column)}`;
    this.paintBar();
    if (this.marker) this.marker.style.left = `${100 * this.markerShare()}%`;
  }

  /** A value with the decimals that its scale deserves: two for images on a scale of 1, none for one of hundreds. */
  digits(value) {
    const [low, high] = this.columns.find((column) => column.kind === "truth").window;
    return value.toFixed(clamp(2 - Math.round(Math.log10(high - low)), 0, 8)).replace("-", "−");
  }

  valueAt(column) {
    const at = this.grid.index(this.position), volume = this.volumes[column.image], truth = this.volumes.truth;
    if (!volume || !truth || !inBrain(this.labels[at])) return "–";
    const [low, high] = column.range, unit = (high - low) / 255;
    if (column.kind !== "error") return this.digits(low + volume[at] * unit);
    const error = (volume[at] - truth[at]) * unit;
    return this.digits(this.signed.checked ? error : Math.abs(error));
  }

  paintBar() {
    const signed = this.signed.checked, { top, units } = this.data, { canvas, low, high, words } = this.bar;
    const picture = new ImageData(256, 1);
    for (let i = 0; i < 256; i++) {
      const share = signed ? i / 127.5 - 1 : i / 255;
      picture.data.set([...errorColour(share, this.colours, signed), 255], 4 * i);
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
    const end = String(Number(top.toPrecision(3)));
    const kind = signed ? "prediction − truth, blue: too dark, orange: too bright" : "|prediction − truth|";
    words.textContent = `Error, ${kind} (${units})`;
    low.textContent = signed ? `−${end}` : "0";
    high.textContent = `${end} and above`;
  }
}

const viewers = [...document.querySelectorAll(".viewer")].map((root) => new Viewer(root));
window.synthmrViewers = viewers; // for tests and for the curious
// a case is decoded when it comes near the window: all at once would stall the page
const observer = new IntersectionObserver(
  (entries) => {
    for (const entry of entries.filter((each) => each.isIntersecting)) {
      observer.unobserve(entry.target);
      viewers.find((viewer) => viewer.root === entry.target).start().catch(() => {}); // the page says what went wrong
    }
  },
  { rootMargin: "600px" },
);
for (const viewer of viewers) observer.observe(viewer.root);
