const DIGITS = 4;
const { nodes, steps, operations } = told;
const [WIDTH, HEIGHT] = told.box;
const FAR = 0.5; // below this zoom only short names are drawn, in large letters

const at = { step: 0, node: nodes.length - 1, view: "graph" };
const turn = new Map(steps.map((n, i) => [n, i + 1])); // the step in which a node is visited
const users = nodes.map(() => []);
nodes.forEach((node, n) => node.inputs.forEach((p, i) => p !== null && users[p].push([n, i])));

// -- small helpers ------------------------------------------------------------------------------
const SVG = "http://www.w3.org/2000/svg";
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const bytes = (n) => (n < 1e3 ? `${n} B` : n < 1e6 ? `${number(n / 1e3, 3)} kB` : `${number(n / 1e6, 3)} MB`);
const clip = (text, n) => (text.length <= n ? text : `…${text.slice(text.length + 1 - n)}`);

const spec = (node) => `${node.dtype}[${node.shape.join(", ")}]`;
const title = (node) => (node.op ? (node.name ? `${node.name} = ${node.op}` : node.op) : node.name || "leaf");
/** The last part of the name, or the operation. */
const brief = (node) => clip(node.name?.split(".").pop() || node.op || "leaf", 16);
const label = (n) => `%${n} ${title(nodes[n])}`;

/** A number for one element, the norm for more. */
function short(array, digits) {
  if (array === null) return "not kept";
  if (array.values && array.values.length === 1) return number(array.values[0], digits);
  const norm = array.values ? Math.hypot(...array.values.map(Number)) : (array.norm ?? "nan");
  return `‖${number(norm, digits ?? 3)}‖`;
}

// -- what a step knows --------------------------------------------------------------------------
const sum = (arrivals) => arrivals[arrivals.length - 1].total ?? arrivals[0].gradient;
const arrived = (n) => nodes[n].arrivals.filter((a) => a.step <= at.step);

function stage(n) {
  if (turn.get(n) === at.step) return "current";
  if (turn.has(n) && turn.get(n) < at.step) return "done";
  const here = arrived(n).length;
  if (!here) return "ahead";
  return !turn.has(n) && here === nodes[n].arrivals.length ? "done" : "waiting";
}
const STAGES = {
  ahead: "no gradient yet", waiting: "waits", current: "in turn: sends its gradient to its inputs", done: "complete",
};

/** What the node in turn sends: [source, arrival], in the order of its rules. */
function sent(step) {
  const sender = steps[step - 1];
  return nodes.flatMap((node, n) => node.arrivals.filter((a) => a.step === step && a.from === sender).map((a) => [n, a]));
}

// -- the drawing --------------------------------------------------------------------------------
const ways = new Map(); // "node,input" to its path
const boxes = nodes.map(drawBox);
const dots = nodes.map((node) => s("rect", { class: "box", x: node.x - WIDTH / 2, y: node.y - HEIGHT / 2, width: WIDTH, height: HEIGHT }));
const bounds = {
  left: Math.min(...nodes.map((n) => n.x)) - WIDTH / 2 - 20,
  right: Math.max(...nodes.map((n) => n.x)) + WIDTH / 2 + 20,
  top: Math.min(...nodes.map((n) => n.y)) - HEIGHT / 2 - 20,
  bottom: Math.max(...nodes.map((n) => n.y)) + HEIGHT / 2 + 20,
};
const whole = [bounds.left, bounds.top, bounds.right - bounds.left, bounds.bottom - bounds.top];

function drawBox(node, n) {
  const box = s("g", { class: "box", transform: `translate(${node.x - WIDTH / 2} ${node.y - HEIGHT / 2})`, role: "button", tabindex: -1, "data-node": n },
    s("rect", { class: "ring", x: -5, y: -5, width: WIDTH + 10, height: HEIGHT + 10, rx: node.op ? 12 : 33 }),
    s("rect", { class: "body", width: WIDTH, height: HEIGHT, rx: node.op ? 8 : HEIGHT / 2 }),
    s("text", { class: title(node).length > 22 ? "title long" : "title", x: WIDTH / 2, y: 21, "text-anchor": "middle" }, clip(title(node), 26)),
    s("text", { class: "brief", x: WIDTH / 2, y: HEIGHT / 2, style: `font-size: ${Math.min(38, 300 / brief(node).length)}px` }, brief(node)),
    s("text", { class: "small", x: WIDTH / 2, y: 35, "text-anchor": "middle" }, `%${n}  ${clip(spec(node), 22)}`),
    s("text", { class: "line", x: WIDTH / 2, y: 50, "text-anchor": "middle" }, s("tspan", {}), s("tspan", { class: "heat" })),
    s("title", {}, `${label(n)}: ${spec(node)}`));
  box.addEventListener("focus", () => choose(n, false));
  return box;
}

function curve(points) {
  return points.slice(1).reduce((path, [x, y], i) => {
    const [px, py] = points[i];
    const middle = (py + y) / 2;
    return path + (px === x ? `L${x} ${y}` : `C${px} ${middle} ${x} ${middle} ${x} ${y}`);
  }, `M${points[0].join(" ")}`);
}

function draw() {
  nodes.forEach((node, n) => node.ways.forEach((points, i) => {
    if (points === null) return;
    const path = s("path", { class: "way", d: curve(points), "data-way": `${n},${i}` });
    ways.set(`${n},${i}`, path);
    $("edges").append(path);
  }));
  $("boxes").append(...boxes);
  $("map").firstElementChild.append(...dots);
  $("map").setAttribute("viewBox", whole.join(" "));
  $("slider").max = steps.length;
  const leaves = nodes.filter((node) => !node.op).length;
  $("summary").textContent = `${count(steps.length, "operation")}, ${count(leaves, "leaf", "leaves")}; ` +
    `${bytes(told.kept[1])} kept for backward, beside ${bytes(told.kept[0])} of the leaves themselves`;
}

function show() {
  boxes.forEach((box, n) => {
    const now = stage(n), node = nodes[n], here = arrived(n);
    const total = here.length ? short(sum(here)) : "·";
    const part = now === "waiting" && node.arrivals.length > 1 ? ` ${here.length}/${node.arrivals.length}` : "";
    const value = node.value ? short(node.value) : "not kept";
    box.setAttribute("class", `box ${node.op ? "" : "leaf"} ${now} ${n === at.node ? "chosen" : ""} ${matching.includes(n) ? "match" : ""}`);
    box.setAttribute("tabindex", n === at.node ? 0 : -1);
    box.setAttribute("aria-label", `${label(n)}, ${spec(node)}, value ${value}, gradient ${here.length ? total : "none yet"}, ${STAGES[now]}${part}`);
    const [first, second] = box.querySelector(".line").children;
    first.textContent = node.value ? `${value}  ` : "";
    second.textContent = `grad ${total}${part}`;
    dots[n].setAttribute("class", `box ${now}`);
  });
  const sends = at.step ? sent(at.step) : [];
  const active = new Set(sends.map(([, a]) => `${a.from},${a.input}`));
  for (const [key, path] of ways) {
    const [n, i] = key.split(",").map(Number);
    const near = n === at.node || nodes[n].inputs[i] === at.node;
    path.setAttribute("class", `way${active.has(key) ? " sends" : near ? " near" : ""}`);
  }
  $("labels").replaceChildren(...sends.map(([, a], k) => {
    const points = nodes[a.from].ways[a.input];
    const [[x0, y0], [x1, y1]] = points.slice(-2);
    const along = sends.length > 1 ? 0.25 + 0.35 * ((k % 3) / Math.min(2, sends.length - 1)) : 0.45;
    return s("text", { x: x1 + (x0 - x1) * along, y: y1 + (y0 - y1) * along + 4, "text-anchor": "middle" }, short(a.gradient));
  }));
  $("slider").value = at.step;
  $("slider").setAttribute("aria-valuetext", `step ${at.step} of ${steps.length}`);
  $("told").replaceChildren(...tell(sends));
  document.querySelectorAll(".all tr").forEach((row) => row.classList.toggle("at-step", row.dataset.step === String(at.step)));
  inspect();
  document.body.dataset.step = at.step;
}

const link = (n) => h("button", { class: "to", "data-to": n, onclick: () => { choose(n); bring(n); } }, label(n));
const listed = (links) => links.flatMap((l, i) => (i === 0 ? [l] : [i === links.length - 1 ? " and " : ", ", l]));

function tell(sends) {
  const root = nodes.length - 1;
  if (!at.step) return ["Forward is done. Backward begins at ", link(root), `, whose gradient with respect to itself is ${short(nodes[root].arrivals[0].gradient)}. ${steps.length ? "Press → for the first step." : "A leaf sends nothing on: backward is done."}`];
  const n = steps[at.step - 1], last = at.step === steps.length;
  const to = (more) => listed([...new Set(sends.filter(([p, a]) => (a !== nodes[p].arrivals[0]) === more).map(([p]) => p))].map(link));
  const [first, again] = [to(false), to(true)];
  return [`Step ${at.step} of ${steps.length}: `, link(n), " has its complete gradient. ",
    ...(first.length ? ["It sends to ", ...first, again.length ? ", and adds to what is there at " : ""] : again.length ? ["It adds to what is there at "] : []), ...again,
    last ? ". Backward is done: the leaves have their gradients." : "."];
}

// -- an array -----------------------------------------------------------------------------------
function view(array) {
  if (array.values) {
    if (!array.values.length) return h("span", { class: "quiet" }, "empty");
    if (array.values.length === 1) return h("span", { class: "num", title: String(array.values[0]) }, number(array.values[0], 7));
    const across = array.shape[array.shape.length - 1];
    if (array.shape.length === 1) return h("div", { class: "row" }, array.values.map((v) => h("span", { title: String(v) }, number(v))));
    const rows = Array.from({ length: array.values.length / across }, (_, r) => array.values.slice(r * across, (r + 1) * across));
    return h("div", { class: "scroll" }, h("table", { class: "array" }, rows.map((row) =>
      h("tr", {}, row.map((v) => h("td", { title: String(v) }, number(v)))))));
  }
  if (array.counts && array.min === array.max && !array.odd) return h("span", {}, `all ${array.shape.reduce((a, b) => a * b)} are `, h("span", { class: "num" }, number(array.min)));
  if (!array.counts) return h("span", {}, `${array.odd} numbers, none of them finite`);
  const most = Math.max(...array.counts), wide = 300 / array.counts.length;
  const zero = (300 * (0 - array.min)) / (array.max - array.min);
  const about = `norm ${number(array.norm)}, mean ${number(array.mean)}` + (array.odd ? `, and ${array.odd} not finite` : "");
  return h("div", {},
    s("svg", { class: "histogram", viewBox: "0 0 300 58", preserveAspectRatio: "none", role: "img", "aria-label": `Histogram from ${number(array.min)} to ${number(array.max)}, ${about}` },
      array.counts.map((c, i) => s("rect", { x: i * wide + 0.5, y: 58 - (56 * c) / most, width: wide - 1, height: (56 * c) / most })),
      zero > 0 && zero < 300 ? s("line", { x1: zero, x2: zero, y1: 0, y2: 58 }) : null),
    h("div", { class: "ends" }, h("span", {}, number(array.min)), h("span", {}, number(array.max))),
    h("div", { class: "quiet" }, about));
}

// -- the chosen node ----------------------------------------------------------------------------
function inspect() {
  const node = nodes[at.node], op = operations[node.op];
  $("node").replaceChildren(...[
    h("div", { class: "head" }, h("h2", {}, label(at.node)),
      h("button", { id: "pin", "aria-pressed": pinned, title: "It stays chosen while you step", onclick: pin }, "Pin")),
    h("p", { class: "quiet" }, [spec(node), op ? op.doc.split("\n")[0] : "a leaf: its gradient ends here, in .grad"].filter(Boolean).join(" · ")),
    node.line ? h("p", { class: "quiet" }, "called at ", h("code", {}, node.line)) : null,
    h("h3", {}, "Value"),
    node.value ? [view(node.value), h("p", { class: "quiet" }, node.holder)]
      : h("p", { class: "quiet" }, "Not kept: no rule asks for it, and no Tensor that holds it is alive."),
    h("h3", {}, `Gradient of ${nodes[nodes.length - 1].name || "the result"} with respect to it`), gradient(at.node),
    inputs(node),
    h("h3", {}, "Used by"), users[at.node].length
      ? h("ul", {}, users[at.node].map(([n, i]) => h("li", {}, link(n), ` as its input ${nodes[n].names[i]}`))) : h("p", { class: "quiet" }, "nothing: it is the result"),
    op ? kept(node) : null,
    op ? rules(node, op) : null,
  ].flat(9).filter(Boolean));
}

function gradient(n) {
  const { arrivals } = nodes[n], here = arrived(n);
  const rows = arrivals.map((a, k) => {
    const came = a.step <= at.step;
    const from = a.from === null ? "where backward begins" : [link(a.from), `, from its input ${nodes[a.from].names[a.input]}`];
    return [h("span", { class: "sign" }, k ? "+" : ""),
      h("div", { class: came ? "" : "ahead" }, h("div", { class: "quiet" }, from, came ? "" : `: arrives in step ${a.step}`), came ? view(a.gradient) : null)];
  });
  if (here.length > 1) {
    rows.push(h("div", { class: "total" }), h("span", { class: "sign" }, "="), h("div", { id: "total" }, view(sum(here)),
      h("div", { class: "quiet" }, here.length < arrivals.length ? `${here.length} of ${arrivals.length} have arrived` : `the sum of ${arrivals.length}`)));
  }
  return h("div", { class: "sum" }, rows);
}

function kept(node) {
  const all = node.kept.reduce((sum, k) => sum + k.bytes, 0);
  return [h("h3", {}, `Kept for backward: ${bytes(all)}`), node.kept.length
    ? h("table", { class: "kept" }, node.kept.map((k) => h("tr", {}, h("td", {}, k.name),
      h("td", {}, k.what, h("div", { class: "quiet" }, k.role), k.array ? view(k.array) : null), h("td", {}, k.bytes ? bytes(k.bytes) : ""))))
    : h("p", { class: "quiet" }, "Nothing: its rules need no array.")];
}

function rules(node, op) {
  const text = ({ text, at: place }) => [h("pre", {}, h("code", {}, text || "its text is in no file")), h("p", { class: "at" }, place)];
  const params = Object.entries(node.params).map(([name, value]) => `${name}=${value}`).join(", ");
  const idle = Object.keys(op.rules).filter((name) => name !== "shared" && !node.rules.includes(name));
  return [h("h3", {}, op.rules.shared || node.rules.length > 1 ? "Its rules" : "Its rule"),
    op.rules.shared ? text(op.rules.shared) : null,
    [...new Set(node.rules)].map((name) => text(op.rules[name])),
    h("p", { class: "quiet" }, `g is the gradient of the output, y the output, m the namespace${op.rules.shared ? "; what is shared takes the place of g" : ""}.`,
      idle.length ? ` Not run, no gradient is asked for: ${idle.join(", ")}.` : ""),
    params ? h("p", {}, h("code", {}, params)) : null,
    h("details", {}, h("summary", { class: "quiet" }, `The whole operation: ${op.signature}`), text(op.forward))];
}

function inputs(node) {
  if (!node.op) return null;
  return [h("h3", {}, "Inputs"), h("ul", {}, node.inputs.map((p, i) => h("li", {}, h("code", {}, `${node.names[i]}: `), p === null ? "a constant" : link(p))))];
}

// -- moving -------------------------------------------------------------------------------------
const eye = { x: 0, y: 0, zoom: 1 };
let moving = 0;

function look() {
  const { width, height } = $("canvas").getBoundingClientRect();
  $("world").setAttribute("transform", `translate(${width / 2 - eye.x * eye.zoom} ${height / 2 - eye.y * eye.zoom}) scale(${eye.zoom})`);
  $("drawing").classList.toggle("far", eye.zoom < FAR);
  const seen = { x: eye.x - width / eye.zoom / 2, y: eye.y - height / eye.zoom / 2, width: width / eye.zoom, height: height / eye.zoom };
  for (const [name, value] of Object.entries(seen)) $("seen").setAttribute(name, value);
  const inside = seen.x <= whole[0] && seen.y <= whole[1] && seen.x + seen.width >= bounds.right && seen.y + seen.height >= bounds.bottom;
  $("map").toggleAttribute("hidden", inside);
}

/** The point, or the nearest one from where less of the view is empty. */
function within(x, y) {
  const { width, height } = $("canvas").getBoundingClientRect();
  const clamp = (v, low, high, half) => (high - low < 2 * half ? (low + high) / 2 : Math.min(high - half, Math.max(low + half, v)));
  return {
    x: clamp(x, bounds.left, bounds.right, width / eye.zoom / 2),
    y: clamp(y, bounds.top - 50 / eye.zoom, bounds.bottom, height / eye.zoom / 2),
  };
}

function glide(x, y) {
  cancelAnimationFrame(moving);
  ({ x, y } = within(x, y));
  const from = { ...eye }, start = performance.now();
  const frame = (now) => {
    const t = slow.matches ? 1 : Math.min(1, Math.max(0, (now - start) / 220));
    const eased = t * (2 - t);
    eye.x = from.x + (x - from.x) * eased;
    eye.y = from.y + (y - from.y) * eased;
    look();
    if (t < 1) moving = requestAnimationFrame(frame);
  };
  frame(start);
  if (!slow.matches) moving = requestAnimationFrame(frame);
}

function fit() {
  const { width, height } = $("canvas").getBoundingClientRect();
  cancelAnimationFrame(moving);
  Object.assign(eye, { x: (bounds.left + bounds.right) / 2, y: (bounds.top + bounds.bottom) / 2 });
  eye.zoom = Math.min(1.3, width / whole[2], (height - 84) / whole[3]);
  look();
}

/** The zoom by a factor, with the point (x, y) of the canvas in its place. */
function zoom(factor, x, y) {
  const { width, height } = $("canvas").getBoundingClientRect();
  const dx = (x ?? width / 2) - width / 2, dy = (y ?? height / 2) - height / 2;
  const now = Math.min(3, Math.max(0.04, eye.zoom * factor));
  eye.x += dx / eye.zoom - dx / now;
  eye.y += dy / eye.zoom - dy / now;
  eye.zoom = now;
  look();
}

/** Move so that a node is in view, with what it sends to. */
function bring(n) {
  const { width, height } = $("canvas").getBoundingClientRect();
  const node = nodes[n], away = { x: Math.abs(node.x - eye.x) * eye.zoom, y: Math.abs(node.y - eye.y) * eye.zoom };
  if (away.x > width / 2 - 120 * eye.zoom || away.y > height / 2 - 170 * eye.zoom - 30) glide(node.x, node.y - 60);
}

// -- what the reader does -----------------------------------------------------------------------
let matching = [], pinned = false;

function go(step) {
  at.step = Math.max(0, Math.min(steps.length, step));
  if (!pinned) at.node = at.step ? steps[at.step - 1] : nodes.length - 1;
  show();
  bring(at.step ? steps[at.step - 1] : nodes.length - 1);
  remember();
}

function choose(n, focus = true) {
  if (n !== at.node) {
    at.node = n;
    show();
    remember();
  }
  if (focus && $("drawing").contains(document.activeElement)) boxes[n].focus();
}

function pin() {
  pinned = !pinned;
  inspect();
  $("pin").focus();
}

const play = player("play", "play", 900, () => {
  go(at.step < steps.length ? at.step + 1 : 0);
  return at.step < steps.length;
});

function redraw() {
  look();
  remember();
}

function search() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  matching = words.length ? nodes.map((_, n) => n).filter((n) => {
    const text = `${label(n)} ${spec(nodes[n])}`.toLowerCase();
    return words.every((word) => text.includes(word));
  }) : [];
  $("drawing").classList.toggle("dimmed", words.length > 0);
  $("matches").textContent = words.length ? count(matching.length, "match", "matches") : "";
  show();
}

function nextMatch() {
  const next = matching.find((n) => n > at.node) ?? matching[0];
  if (next === undefined) return;
  choose(next, false);
  glide(nodes[next].x, nodes[next].y);
}

function restore() {
  at.node = -1;
  const then = recall();
  at.step = Math.min(at.step, steps.length);
  if (!(at.node in nodes)) at.node = at.step ? steps[at.step - 1] : nodes.length - 1;
  $("search").value = then.get("search") ?? $("search").value;
  turnTo(at.view);
  search();
}

const KEYS = {
  ArrowRight: () => go(at.step + 1), ArrowLeft: () => go(at.step - 1),
  Home: () => go(0), End: () => go(steps.length), " ": play,
  ArrowUp: () => hop(nodes[at.node].inputs.find((p) => p !== null)), ArrowDown: () => hop(users[at.node][0]?.[0]),
  "/": () => $("search").focus(), f: fit, "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), p: pin, t: theme,
};
function hop(n) {
  if (n === undefined) return;
  choose(n);
  bring(n);
}

function listen() {
  listenToKeys(KEYS, (key) => at.view === "graph" || key === "t");
  $("search").addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    $("search").value = "";
    search();
    $("search").blur();
  });
  const clicks = { first: () => go(0), previous: () => go(at.step - 1), next: () => go(at.step + 1), last: () => go(steps.length) };
  for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
  for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => ({ in: () => zoom(1.25), out: () => zoom(0.8), fit })[button.dataset.zoom]());
  $("slider").addEventListener("input", () => go(Number($("slider").value)));
  $("search").addEventListener("input", search);
  $("find").addEventListener("submit", (event) => { event.preventDefault(); nextMatch(); });

  const fingers = new Map(); // by pointer, where it is: one drags, two pinch
  let dragged = 0;
  const drawing = $("drawing");
  drawing.addEventListener("pointerdown", (event) => { fingers.set(event.pointerId, event); dragged = 0; cancelAnimationFrame(moving); });
  drawing.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const others = [...fingers.values()].filter((f) => f.pointerId !== event.pointerId);
    fingers.set(event.pointerId, event);
    const dx = event.clientX - before.clientX, dy = event.clientY - before.clientY;
    dragged += Math.abs(dx) + Math.abs(dy);
    if (dragged > 4 && !drawing.hasPointerCapture(event.pointerId)) drawing.setPointerCapture(event.pointerId);
    if (others.length) {
      const far = (f) => Math.hypot(f.clientX - others[0].clientX, f.clientY - others[0].clientY) || 1;
      const { left, top } = $("canvas").getBoundingClientRect();
      return zoom(far(event) / far(before), others[0].clientX - left, others[0].clientY - top);
    }
    eye.x -= dx / eye.zoom;
    eye.y -= dy / eye.zoom;
    look();
  });
  for (const name of ["pointerup", "pointercancel"]) drawing.addEventListener(name, (event) => fingers.delete(event.pointerId));
  drawing.addEventListener("click", (event) => {
    const box = event.target.closest("[data-node]");
    if (box && dragged <= 4) choose(Number(box.dataset.node));
    dragged = 0; // a click may come without a pointer, as from a screen reader
  });
  $("canvas").addEventListener("wheel", (event) => {
    event.preventDefault();
    const { left, top } = $("canvas").getBoundingClientRect();
    zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), event.clientX - left, event.clientY - top);
  }, { passive: false });
  $("map").addEventListener("pointerdown", (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform($("map").getScreenCTM().inverse());
    glide(point.x, point.y);
  });
  addEventListener("resize", look);
  addEventListener("hashchange", () => { restore(); bring(at.node); });
  // On paper: the whole graph.
  addEventListener("beforeprint", () => { $("world").removeAttribute("transform"); $("drawing").setAttribute("viewBox", whole.join(" ")); $("drawing").classList.remove("far"); });
  addEventListener("afterprint", () => { $("drawing").removeAttribute("viewBox"); look(); });
}

// -- the table, and why an order ----------------------------------------------------------------
function table() {
  const row = (step, n) => h("tr", { "data-step": step }, h("td", {}, String(step)), h("td", {}, there(n)),
    h("td", {}, short(sum(nodes[n].arrivals))),
    h("td", {}, sent(step).map(([p, a]) => {
      const k = nodes[p].arrivals.indexOf(a);
      return h("div", {}, there(p), ` ${short(a.gradient)}`, k ? `, with what was there ${short(a.total)}` : "");
    })));
  const there = (n) => h("button", { class: "to", onclick: () => { turnTo("graph"); choose(n); glide(nodes[n].x, nodes[n].y); } }, label(n));
  $("table").append(h("h2", {}, "Backward, all steps"),
    h("p", { class: "quiet" }, "Of an array with more than one element the norm is written, as ‖0.5‖."),
    h("table", { class: "all" }, h("tr", {}, ["step", "node", "its gradient", "sends"].map((text) => h("th", { scope: "col" }, text))), steps.map((n, i) => row(i + 1, n))));
}

/** The graph of that example: a twice in b, b twice in y. */
function figure() {
  const names = ["a", "b = a + a", "y = b + b"];
  const between = [0, 1].flatMap((i) => [-1, 1].map((side) => {
    const x = 130 + 200 * i;
    return s("path", { class: "way", d: `M${x} ${35 + side * 4}C${x + 30} ${35 + side * 26} ${x + 50} ${35 + side * 26} ${x + 78} ${35 + side * 8}` });
  }));
  return s("svg", { class: "figure", viewBox: "0 0 540 70", role: "img", "aria-label": "The graph: two ways lead from a to b, and two from b to y" },
    between, names.map((name, i) => s("g", { class: `box ${i ? "" : "leaf"}`, transform: `translate(${10 + 200 * i} 13)` },
      s("rect", { class: "body", width: 120, height: 44, rx: i ? 8 : 22 }),
      s("text", { class: "title", x: 60, y: 27, "text-anchor": "middle" }, name))));
}

function order() {
  const truth = told.ways[told.ways.length - 1].result;
  $("order").append(h("h2", {}, "Why does backward need an order?"),
    h("p", {}, "Take ", h("code", {}, "b = a + a"), " and ", h("code", {}, "y = b + b"), `. If a grows by 1, y grows by ${number(truth)}: the gradient of y in a is ${number(truth)}. `,
      "A value that is used twice gets two gradients, and they add up. It must pass on their sum, once, when all of it is there. A recursion that follows the graph does not know when that is."),
    figure(),
    h("p", { class: "quiet" }, "Each way below was run to make this page. The boxes are the values that it stored, in order; dashed is what was stored before and changes."),
    h("div", { class: "ways" }, told.ways.map((way) => {
      const right = way.result === truth;
      const before = new Set();
      return h("article", {}, h("h3", {}, way.title),
        h("ol", { "aria-label": "Values stored, in order" }, way.events.map(([name, g]) => {
          const again = before.has(name);
          before.add(name);
          return h("li", { class: again ? "again" : "" }, `${name}.grad = ${number(g)}`);
        })),
        h("p", {}, h("span", { class: right ? "right" : "wrong" }, `${right ? "✓" : "✗"} a.grad = ${number(way.result)}`), ` after ${count(way.events.length, "visit")}. ${way.why}`),
        h("pre", { tabindex: 0 }, h("code", {}, way.text)), h("p", { class: "at" }, way.at));
    })));
}

draw();
table();
order();
listen();
restore();
fit();
if (eye.zoom < FAR + 0.1) {
  eye.zoom = Math.min(0.95, Math.max(0.75, $("canvas").clientWidth / whole[2]));
  const start = nodes[at.step ? steps[at.step - 1] : nodes.length - 1];
  Object.assign(eye, within(start.x, start.y - 60));
}
look();
document.body.dataset.ready = "yes";
