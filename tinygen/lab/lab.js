const DIGITS = 3;
const lab = { head: told.head, runs: told.runs }; // runs in the order of their models
const at = { view: told.live ? "new" : "all", frame: 0, budget: "updates", t: 60, sampler: "ddpm", steps: 25 };

const TITLES = {
  ae: "Autoencoder", dae: "Denoising autoencoder", cae: "Contractive autoencoder", vae: "VAE", gan: "GAN", ddpm: "Diffusion (DDPM)",
};
const VIEW_OF = { ae: "autoencoders", dae: "autoencoders", cae: "autoencoders", vae: "vae", gan: "gan", ddpm: "diffusion" };
const MEASURES = {
  sliced_wasserstein: "sliced Wasserstein", mmd: "MMD²", precision: "precision", recall: "recall", coverage: "coverage",
};

// -- small helpers ------------------------------------------------------------------------------
const run = (model) => lab.runs.find((r) => r.model === model && r.frames.length);
const points = (flat) => Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i] / 100, flat[2 * i + 1] / 100]);

/** The frame of a run that the slider means: by its number, or the last one within a time. */
function frameOf(r) {
  if (at.budget === "updates") return r.frames[Math.min(at.frame, r.frames.length - 1)];
  return r.frames.filter((f) => f.seconds <= limit()).pop() || r.frames[0];
}
const frames = () => Math.max(1, ...lab.runs.map((r) => r.frames.length));
const slowest = () => Math.max(0, ...lab.runs.map((r) => r.frames[r.frames.length - 1]?.seconds ?? 0));
const limit = () => (slowest() * at.frame) / Math.max(1, frames() - 1);

// -- drawing ------------------------------------------------------------------------------------
const probe = document.body.appendChild(h("span", { hidden: "" }));

/** A colour of the style as [r, g, b], in the light or dark form that is shown now. */
function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
}
const css = (rgb, alpha = 1) => `rgba(${rgb.join(",")},${alpha})`;
const mixed = (a, b, share) => a.map((v, i) => v + (b[i] - v) * share);

/** A canvas on which points of the plane are drawn; alt says in words what is seen. */
function plane(id, [cx, cy, half], alt) {
  const canvas = typeof id === "string" ? $(id) : id;
  canvas.width = canvas.height = 560;
  canvas.setAttribute("role", canvas.getAttribute("role") || "img");
  if (alt) canvas.setAttribute("aria-label", alt);
  const c = canvas.getContext("2d"), scale = canvas.width / (2 * half);
  const X = (x) => (x - cx + half) * scale, Y = (y) => canvas.height - (y - cy + half) * scale;
  c.fillStyle = css(colour("ground"));
  c.fillRect(0, 0, canvas.width, canvas.height);
  return {
    dots(list, name, radius = 3.2, alpha = 0.85) {
      c.fillStyle = Array.isArray(name) ? null : css(colour(name), alpha);
      list.forEach(([x, y], i) => {
        if (Array.isArray(name)) c.fillStyle = name[i];
        c.beginPath();
        c.arc(X(x), Y(y), radius, 0, 7);
        c.fill();
      });
      return this;
    },
    line(list, name, width = 2, alpha = 1) {
      c.strokeStyle = css(colour(name), alpha);
      c.lineWidth = width;
      c.beginPath();
      list.forEach(([x, y], i) => (i ? c.lineTo(X(x), Y(y)) : c.moveTo(X(x), Y(y))));
      c.stroke();
      return this;
    },
    /** Ellipses with half axes [a, b] along the coordinates. */
    clouds(centres, axes, colours) {
      centres.forEach(([x, y], i) => {
        c.beginPath();
        c.ellipse(X(x), Y(y), axes[i][0] * scale, axes[i][1] * scale, 0, 0, 7);
        c.fillStyle = colours[i].replace(")", " / .22)");
        c.fill();
        c.fillStyle = colours[i];
        c.fillRect(X(x) - 1.5, Y(y) - 1.5, 3, 3);
      });
      return this;
    },
    circle(radius, name) {
      return this.line(Array.from({ length: 65 }, (_, i) => [radius * Math.cos(i * Math.PI / 32), radius * Math.sin(i * Math.PI / 32)]), name, 1.5);
    },
    /** From each point an arrow, as long as the vector but at most `most` in the plane's units. */
    arrows(from, vectors, name, most) {
      c.strokeStyle = css(colour(name), 0.9);
      c.lineWidth = 1.8;
      from.forEach(([x, y], i) => {
        let [u, v] = vectors[i];
        const size = Math.hypot(u, v), share = Math.min(1, most / (size || 1));
        [u, v] = [u * share, v * share];
        const [x1, y1] = [X(x + u), Y(y + v)], way = Math.atan2(y1 - Y(y), x1 - X(x)), head = Math.min(7, size * share * scale * 0.5);
        c.beginPath();
        c.moveTo(X(x), Y(y));
        c.lineTo(x1, y1);
        for (const turn of [2.6, -2.6]) {
          c.moveTo(x1, y1);
          c.lineTo(x1 + head * Math.cos(way + turn), y1 + head * Math.sin(way + turn));
        }
        c.stroke();
      });
      return this;
    },
    /** A square of numbers; `shade` gives the colour of one. */
    map(values, side, shade) {
      const small = document.createElement("canvas");
      small.width = small.height = side;
      const image = new ImageData(side, side);
      values.forEach((v, i) => image.data.set([...shade(v / 100).map(Math.round), 255], 4 * ((side - 1 - Math.floor(i / side)) * side + (i % side))));
      small.getContext("2d").putImageData(image, 0, 0);
      c.drawImage(small, 0, 0, canvas.width, canvas.height);
      return this;
    },
  };
}

/** Curves over the frames of a run or of several: a dot at the frame that is shown, a label at the end. */
function chart(id, curves, about, { floor = null, top = 0 } = {}) {
  const canvas = $(id), w = 560, tall = 320, c = canvas.getContext("2d");
  [canvas.width, canvas.height] = [2 * w, 2 * tall]; // sharp on a fine screen
  c.scale(2, 2);
  c.font = "16px system-ui, sans-serif";
  const widest = Math.max(...curves.map((k) => c.measureText(k.label).width), c.measureText("floor updates").width);
  const right = widest + 18, below = 36, above = 12;
  const values = curves.flatMap((k) => k.values).concat(floor ? [floor[1]] : []);
  const [least, most] = [Math.min(0, ...values), Math.max(top, ...values)];
  const rough = (most - least) / 4 || 1, power = 10 ** Math.floor(Math.log10(rough));
  const gap = [1, 2, 5, 10].find((k) => k * power >= rough) * power;
  const [low, high] = [Math.floor(least / gap) * gap, Math.ceil(most / gap - 1e-9) * gap];
  const marks = Array.from({ length: Math.round((high - low) / gap) + 1 }, (_, i) => low + i * gap);
  const left = Math.max(...marks.map((v) => c.measureText(number(v, 2)).width)) + 16;
  const n = Math.max(2, ...curves.map((k) => k.values.length)), longest = curves.find((k) => k.values.length === n) || curves[0];
  const X = (i) => left + (i / (n - 1)) * (w - left - right), Y = (v) => above + ((high - v) / (high - low)) * (tall - above - below);
  c.fillStyle = css(colour("ground"));
  c.fillRect(0, 0, w, tall);
  c.textBaseline = "middle";
  const rule = (x0, y0, x1, y1, style, width = 1, dash = []) => {
    c.setLineDash(dash);
    c.strokeStyle = style;
    c.lineWidth = width;
    c.beginPath();
    c.moveTo(x0, y0);
    c.lineTo(x1, y1);
    c.stroke();
    c.setLineDash([]);
  };
  const write = (text, x, y, name, align = "left") => {
    c.fillStyle = css(colour(name));
    c.textAlign = align;
    c.fillText(text, x, y);
  };
  for (const v of marks) {
    rule(left, Y(v), w - right, Y(v), css(colour("line")));
    write(number(v, 2), left - 8, Y(v), "quiet", "right");
  }
  for (const i of [...new Set([0, Math.round((n - 1) / 2), n - 1])]) if (i < longest.steps.length) write(longest.steps[i].toLocaleString("en"), X(i), tall - 18, "quiet", i ? "center" : "left");
  write("updates", w - 6, tall - 18, "quiet", "right");
  const ends = floor ? [[floor[0], Y(floor[1]), "leaf"]] : [];
  if (floor) rule(left, Y(floor[1]), w - right, Y(floor[1]), css(colour("leaf")), 2, [8, 5]);
  const colours = ["heat", "focus", "wrong", "ink", "quiet", "violet"], dashes = [[], [], [12, 4], [8, 4], [3, 3], []];
  curves.forEach((k, j) => {
    const name = k.colour || colours[j % colours.length];
    k.values.forEach((v, i) => i && rule(X(i - 1), Y(k.values[i - 1]), X(i), Y(v), css(colour(name)), 2.6, dashes[j]));
    (k.errors || []).forEach((e, i) => rule(X(i), Y(k.values[i] - e), X(i), Y(k.values[i] + e), css(colour(name), 0.5), 5));
    c.fillStyle = css(colour(name));
    c.beginPath();
    c.arc(X(k.at), Y(k.values[k.at]), 5.5, 0, 7);
    c.fill();
    ends.push([k.label, Y(k.values[k.values.length - 1]), name]);
  });
  ends.sort((a, b) => a[1] - b[1]).forEach((end, i) => { if (i) end[1] = Math.max(end[1], ends[i - 1][1] + 18); });
  const over = Math.max(0, (ends[ends.length - 1]?.[1] ?? 0) - (tall - below));
  for (const [text, y, name] of ends) write(text, w - right + 12, y - over, name);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Chart of ${about} over the updates. At this frame: ` +
    curves.map((k) => `${k.label} ${number(k.values[k.at])}`).join(", ") + (floor ? `; ${floor[0]} ${number(floor[1])}.` : "."));
}
const curve = (r, label, value, more) => ({ label, at: r.frames.indexOf(frameOf(r)), steps: r.frames.map((f) => f.step), values: r.frames.map(value), ...more });
const caption = (id, ...parts) => $(id).parentElement.querySelector("figcaption").replaceChildren(...parts);

const when = (r) => { const f = frameOf(r); return `${count(f.step, "update")}, ${number(f.seconds)} s`; };
const data = () => points(lab.head.points);
const grid = (side, [cx, cy, half]) => Array.from({ length: side * side }, (_, i) =>
  [cx - half + ((i % side) + 0.5) * 2 * half / side, cy - half + (Math.floor(i / side) + 0.5) * 2 * half / side]);
const shaded = (name, most = 0.6) => { const [a, b] = [colour("ground"), colour(name)]; return (v) => mixed(a, b, most * v); };

// -- the views ----------------------------------------------------------------------------------
function drawAll() {
  const floor = lab.head.floor;
  const rows = [{ name: "Held-out data", about: "real points: the floor", ...floor, steps: null }];
  for (const model of Object.keys(TITLES)) if (run(model)) rows.push({ name: TITLES[model], model, about: when(run(model)), ...frameOf(run(model)), map: null });
  rows.push(...lab.head.baselines);
  $("cards").replaceChildren(...rows.map((row) => {
    const canvas = h("canvas"), alt = `${row.name}: ${count(row.samples.length / 2, "sample")} over the data; sliced Wasserstein ${number(row.measures.sliced_wasserstein)}, floor ${number(floor.measures.sliced_wasserstein)}.`;
    const drawn = plane(canvas, lab.head.window, alt);
    if (row.map) drawn.map(row.map, lab.head.map, shaded("leaf"));
    drawn.dots(data(), "quiet", 3, 0.35).dots(points(row.samples), row === rows[0] ? "ink" : "heat", 3.6);
    const title = row.model ? h("button", { onclick: () => turnTo(VIEW_OF[row.model]) }, row.name) : h("b", {}, row.name);
    return h("figure", {}, canvas, h("figcaption", {}, title, h("div", { class: "quiet" }, row.about)));
  }));
  const cell = (v, k) => h("td", {}, k === "sliced_wasserstein" || k === "mmd" ? v.toFixed(k === "mmd" ? 4 : 3) : `${Math.round(100 * v)} %`);
  $("measures").replaceChildren(
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, ""), [...Object.values(MEASURES), "parameters", "seconds"].map((m) => h("th", { scope: "col" }, m)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.name), Object.keys(MEASURES).map((k) => cell(row.measures[k], k)),
      row.model ? [h("td", {}, run(row.model).parameters.toLocaleString("en")), h("td", {}, row.seconds.toFixed(1))] : h("td", { colspan: 2 })))));
  const runs = Object.keys(TITLES).map(run).filter(Boolean);
  if (runs.length) chart("distances", runs.map((r) => curve(r, TITLES[r.model], (f) => f.measures.sliced_wasserstein)), "the sliced Wasserstein distance", { floor: ["floor", floor.measures.sliced_wasserstein] });
}

function drawAutoencoders() {
  const side = lab.head.arrows, from = grid(side, lab.head.window), most = (1.6 * lab.head.window[2]) / side;
  $("auto").replaceChildren(...["ae", "dae", "cae"].filter(run).map((model) => {
    const r = run(model), f = frameOf(r), canvas = h("canvas"), options = r.options;
    const why = { ae: `a code of ${count(options.latent, "number")}`, dae: `noise of standard deviation ${options.amount} on the input, a code of ${count(options.latent, "number")}`, cae: `penalty ${options.penalty} on ‖∂f/∂x‖², a code of ${count(options.latent, "number")}` }[model];
    const error = f.terms.reconstruction ?? f.terms.loss;
    const drawn = plane(canvas, lab.head.window, `${TITLES[model]}: arrows from points to their reconstructions; error ${number(error)}.`)
      .map(f.map, lab.head.map, shaded("leaf", 0.5)).dots(data(), "quiet", 3, 0.5).arrows(from, points(f.field), "ink", most);
    if (f.curve) drawn.line(points(f.curve), "focus", 4);
    return h("figure", {}, canvas, h("figcaption", {}, h("b", {}, TITLES[model]), `: ${why}. After ${when(r)}: error ${number(error)}, ‖∂f/∂x‖ on the data ${number(f.slope)}.`));
  }));
}

/** Each point's own colour, by its direction from the middle: so a code is found that belongs to it. */
function hues(list) {
  const [cx, cy] = lab.head.window, dark = colour("ground")[0] < 128;
  return list.map(([x, y]) => `hsl(${Math.round((Math.atan2(y - cy, x - cx) * 180) / Math.PI + 360) % 360} 75% ${dark ? 65 : 40}%)`);
}

function drawVae() {
  const r = run("vae"), f = frameOf(r), codes = points(f.means), some = data().slice(0, codes.length);
  if (r.options.latent === 2) {
    plane("codes", [0, 0, 3.2], `The plane of codes: ${codes.length} posterior clouds, and the prior's circles.`)
      .clouds(codes, points(f.stds), hues(some)).circle(1, "ink").circle(2, "ink");
    const lines = points(f.sheet), drawn = plane("sheet", lab.head.window, "The data, and the grid of codes as the decoder maps it to the plane.")
      .dots(some, hues(some), 3.6);
    for (let i = 0; i < lines.length; i += 21) drawn.line(lines.slice(i, i + 21), "ink", 1.4, 0.8);
  }
  caption("codes", h("b", {}, "Codes"), `: an ellipse is q(z|x), one standard deviation wide. Same colour, same point. After ${when(r)}.`);
  caption("sheet", h("b", {}, "Data"), ": the lines are the grid of codes from −2.5 to 2.5, decoded. The noise of p(x|z) is not drawn.");
  const of = (name) => (g) => -g.terms[name];
  chart("elbo", [curve(r, "−KL(q ‖ prior)", of("kl"), { colour: "focus" }), curve(r, "E log p(x|z)", of("reconstruction"), { colour: "heat" }), curve(r, "ELBO", (g) => -g.terms.kl - g.terms.reconstruction, { colour: "ink" })],
    "the ELBO and its two terms, on held-out data");
  caption("elbo", h("b", {}, "ELBO"), ` on held-out data, in nats: ${number(-f.terms.reconstruction)} − ${number(f.terms.kl)} = ${number(-f.terms.reconstruction - f.terms.kl)}.`);
}

function drawGan() {
  const r = run("gan"), f = frameOf(r), ground = colour("ground"), [real, fake] = [colour("focus"), colour("heat")];
  plane("game", lab.head.window, `D on the plane, the data, and ${count(f.samples.length / 2, "sample")}. Lower bound of the divergence ${number(f.js)} nats.`)
    .map(f.map, lab.head.map, (v) => mixed(ground, v > 0 ? real : fake, 0.8 * Math.abs(v)))
    .dots(data(), "quiet", 3, 0.6).dots(points(f.samples), "heat", 3.6);
  caption("game", h("b", {}, "D, data (grey) and samples (orange)"), ` after ${when(r)}.`);
  chart("js", [curve(r, "JS, at least", (g) => g.js, { errors: r.frames.map((g) => g.js_error) })], "a lower bound of the Jensen-Shannon divergence", { top: 0.05 });
  caption("js", h("b", {}, "Jensen-Shannon divergence"), `: D's lower bound on held-out data, ${number(f.js)} ± ${number(f.js_error, 2)} nats. 0 is for equal distributions, log 2 = 0.69 for distributions without overlap. A poor D gives a loose bound, even below 0.`);
  chart("players", [curve(r, "D's loss", (g) => g.terms.discriminator), curve(r, "G's loss", (g) => g.terms.generator)], "the losses of D and G", { floor: ["log 4", Math.log(4)] });
  caption("players", h("b", {}, "Losses"), ": a D that can only guess has log 4 = 1.39. Neither falls to 0, so losses say little about the samples.");
}

/** x_t = signal x_0 + noise ε, as the model is trained on it. */
function forward(r, t) {
  const eps = points(r.eps);
  return points(r.clean).map(([x, y], i) => [r.signal[t] * x + r.noise[t] * eps[i][0], r.signal[t] * y + r.noise[t] * eps[i][1]]);
}

function drawDiffusion() {
  const r = run("ddpm"), f = frameOf(r), T = r.signal.length - 1, t = T - at.t, square = [0, 0, r.half];
  $("time").max = T;
  $("time").value = at.t;
  $("time").setAttribute("aria-valuetext", `t = ${t}`);
  $("now").textContent = `t = ${t} of ${T}`;
  const noisy = forward(r, t);
  plane("forward", square, `Forward: the data at time ${t} of ${T}, signal ${number(r.signal[t])}, noise ${number(r.noise[t])}.`).dots(noisy, "quiet", 3.2, 0.8);
  caption("forward", h("b", {}, `Forward, x`, h("sub", {}, String(t))), ` = ${number(r.signal[t])} x₀ + ${number(r.noise[t])} ε`);
  const near = r.times.reduce((best, time, i) => (Math.abs(time - t) < Math.abs(r.times[best] - t) ? i : best), 0);
  plane("score", square, `The score field at time ${r.times[near]}, over the data at that time.`).dots(forward(r, r.times[near]), "quiet", 3, 0.4)
    .arrows(grid(lab.head.arrows, square), points(f.scores[near]), "focus", (1.7 * r.half) / lab.head.arrows);
  caption("score", h("b", {}, `Score at t = ${r.times[near]}`), ` (the nearest of ${r.times.length} times), after ${when(r)}. An arrow is ∇ log q(x) times the noise; long ones are cut.`);
  const last = r.frames[r.frames.length - 1], paths = last.paths?.[at.sampler];
  const counts = Object.keys(paths || {}).map(Number);
  if (paths && !counts.includes(at.steps)) at.steps = counts[counts.length - 1];
  $("count-of").replaceChildren(...counts.map((n) => h("option", { value: n, ...(n === at.steps ? { selected: "" } : {}) }, String(n))));
  $("sampler").value = at.sampler;
  const drawn = plane("reverse", square, paths ? `Reverse: paths of ${at.sampler} in ${at.steps} steps, at time ${t}.` : "Reverse: no paths yet.");
  drawn.dots(points(r.clean), "quiet", 3, 0.35);
  if (!paths) return caption("reverse", "The paths are drawn when the run ends or stops.");
  const { times } = paths[at.steps], path = paths[at.steps].states.map(points);
  const here = times.reduce((k, time, i) => (time >= t ? i : k), 0);
  for (let i = 0; i < 16; i++) drawn.line(path.slice(0, here + 1).map((x) => x[i]), "heat", 1.5, 0.6); // more would hide one another
  drawn.dots(path[here], "heat", 4.2);
  caption("reverse", h("b", {}, `Reverse with ${$("sampler").selectedOptions[0].textContent}`), `: step ${here} of ${count(at.steps, "step")}, at t = ${times[here]}. ${at.sampler === "ddpm" ? "Each step adds new noise." : "No noise is added: the start decides the end."} The trained model after ${count(last.step, "update")}.`);
}

function drawLoss() {
  const r = run("ddpm");
  chart("loss", [curve(r, "loss", (g) => g.terms.loss)], "the loss on held-out data");
  caption("loss", h("b", {}, "Loss"), ` on held-out data: the squared error of the network's prediction (${r.options.predict}). It cannot fall to 0: the noise cannot be known from x_t.`);
}

const DRAW = {
  all: [drawAll], autoencoders: [drawAutoencoders, "ae", "dae", "cae"], vae: [drawVae, "vae"], gan: [drawGan, "gan"],
  diffusion: [() => { drawDiffusion(); drawLoss(); }, "ddpm"],
};

function draw(view) {
  const [paint, ...models] = DRAW[view] || [];
  if (lab.head && paint && (!models.length || models.some(run))) paint();
}

/** Everything that depends on what is chosen. */
function show() {
  const n = frames();
  at.frame = Math.max(0, Math.min(n - 1, at.frame));
  $("slider").max = n - 1;
  $("slider").value = at.frame;
  $("play").disabled = $("slider").disabled = n < 2;
  const longest = lab.runs.find((r) => r.frames.length === n);
  const text = !longest ? "" : at.budget === "seconds" ? `${number(limit())} seconds of training for each model, compiling included` : `${count(longest.frames[at.frame].step, "update")} of each model`;
  $("slider").setAttribute("aria-valuetext", text);
  if (!told.live) $("told").textContent = `${text}: frame ${at.frame + 1} of ${n}.`;
  for (const button of views) {
    const [, ...models] = DRAW[button.dataset.view] || [];
    if (told.live) button.hidden = button.dataset.view in DRAW && (!lab.head || (models.length > 0 && !models.some(run)));
  }
  if (lab.head) {
    $("name").textContent = lab.head.name;
    $("summary").textContent = `${count(lab.head.rows, "point")} to train on${lab.head.standardised ? ", each column standardised" : ""}`;
  }
  draw(at.view);
  document.body.dataset.frame = at.frame;
}

// -- what the reader does -----------------------------------------------------------------------
function go(frame) {
  at.frame = frame;
  redraw();
  return at.frame < frames() - 1;
}
function move(t) {
  const T = run("ddpm") ? run("ddpm").signal.length - 1 : 0;
  at.t = Math.max(0, Math.min(T, t));
  draw("diffusion");
  remember();
  return at.t < T;
}
const gap = slow.matches ? 1000 : 250;
const play = player("play", "play", gap, () => go(at.frame < frames() - 1 ? at.frame + 1 : 0));
const reverse = player("back", "reverse", gap, () => {
  const T = run("ddpm").signal.length - 1;
  return move(at.t < T ? at.t + Math.max(1, Math.round(T / 50)) : 0);
});

function redraw() {
  show();
  remember();
}

function restore() {
  const then = recall();
  for (const name of ["budget", "sampler"]) {
    if ([...$(name).options].some((o) => o.value === then.get(name))) at[name] = $(name).value = then.get(name);
  }
  turnTo(at.view);
}

const KEYS = {
  ArrowRight: () => go(at.frame + 1), ArrowLeft: () => go(at.frame - 1), Home: () => go(0), End: () => go(frames() - 1), " ": play, t: theme,
  r: () => at.view === "diffusion" && reverse(), ",": () => move(at.t - 1), ".": () => move(at.t + 1),
  ...Object.fromEntries(Object.keys(DRAW).map((view, i) => [String(i + 1), () => document.querySelector(`[data-view=${view}]`).click()])),
};

function listen() {
  listenToKeys(KEYS);
  $("slider").addEventListener("input", () => go(Number($("slider").value)));
  $("time").addEventListener("input", () => move(Number($("time").value)));
  $("budget").addEventListener("change", () => { at.budget = $("budget").value; go(at.frame); });
  $("sampler").addEventListener("change", () => { at.sampler = $("sampler").value; move(at.t); });
  $("count-of").addEventListener("change", () => { at.steps = Number($("count-of").value); move(at.t); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  addEventListener("hashchange", restore);
  addEventListener("beforeprint", () => Object.keys(DRAW).forEach(draw));
}

// -- a live run ---------------------------------------------------------------------------------
const live = { state: "", run: 0, drawn: [] };
const PAD = [0, 0, 3];
const brush = [0, 0];

/** Ask the server; its errors are told on the page. */
async function ask(what, body) {
  try {
    const reply = await fetch(what, body === undefined ? {} : { method: "POST", body: JSON.stringify(body) });
    const answer = await reply.json();
    if (!reply.ok) throw new Error(answer.error);
    return answer;
  } catch (error) {
    tell(error instanceof TypeError ? "The laboratory does not answer: it has ended. Start it again with python -m tinygen lab." : error.message, true);
    return null;
  }
}
function tell(text, wrong = false) {
  $("told").textContent = text;
  $("told").classList.toggle("wrong", wrong);
}

async function start(event) {
  event.preventDefault();
  const options = Object.fromEntries([...$("options").querySelectorAll("select")].map((s) => [s.name, JSON.parse(s.value)]));
  const drawn = $("dataset").value === "";
  const answer = await ask("start", { data: drawn ? live.drawn : $("dataset").value, model: $("model").value, steps: $("updates").valueAsNumber, seed: $("seed").valueAsNumber, options });
  if (answer) follow(answer.run);
}

/** Fetch frames as they come, until the run rests or another one is followed. */
async function follow(number_) {
  live.run = number_;
  at.frame = 0;
  let seen = 0, r = null, state = "running";
  while (live.run === number_ && state === "running") {
    const news = await ask(`frames?run=${number_}&after=${seen}`);
    if (!news || live.run !== number_) return;
    ({ state } = news);
    if (!r && news.steady) {
      if (lab.head?.key !== news.head.key) lab.runs = [];
      lab.head = news.head;
      r = { ...news.steady, frames: [] };
      lab.runs = [...lab.runs.filter((other) => other.model !== r.model), r];
    }
    if (r) {
      const following = at.frame >= r.frames.length - 1;
      r.frames.push(...news.frames);
      seen = r.frames.length;
      if (following) at.frame = seen - 1;
    }
    $("controls").hidden = false;
    $("stop").disabled = state !== "running";
    $("resume").disabled = state !== "stopped";
    live.state = document.body.dataset.state = state;
    if (r?.frames.length && at.view === "new") turnTo(VIEW_OF[r.model]);
    else show();
    const step = r?.frames.length ? `${TITLES[r.model]}: ${r.frames[seen - 1].step.toLocaleString("en")} of ${count(r.settings.steps, "update")}` : "Preparing";
    tell({ running: `${step}.`, stopped: `${step}. Stopped: Resume goes on.`, done: `${step}. Done.`, failed: `The run failed: ${news.message}` }[state], state === "failed");
  }
}

function pad() {
  const dots = plane("pad", PAD);
  dots.dots(live.drawn, "heat", 3.2).line([[brush[0] - 0.12, brush[1]], [brush[0] + 0.12, brush[1]]], "focus").line([[brush[0], brush[1] - 0.12], [brush[0], brush[1] + 0.12]], "focus");
  const chosen = $("dataset").value;
  $("count").textContent = chosen ? `${chosen} is chosen. Draw here for points of your own.`
    : `${count(live.drawn.length, "point")} drawn; a run needs ${told.live.least}, 300 are better.`;
}

/** Points around the brush, normally distributed. */
function spray(n) {
  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  for (let i = 0; i < n && live.drawn.length < told.live.most; i++) live.drawn.push(brush.map((v) => Math.round(1000 * (v + 0.08 * normal())) / 1000));
  $("dataset").value = "";
  pad();
}

function enliven() {
  for (const name of ["", ...told.live.datasets]) $("dataset").append(h("option", { value: name }, name || "the points drawn here"));
  $("dataset").value = told.live.chosen;
  for (const [name, title] of Object.entries(TITLES)) $("model").append(h("option", { value: name }, title));
  $("model").value = "ddpm";
  $("updates").value = told.live.steps;
  $("updates").max = told.live.limit;
  $("limit").textContent = told.live.limit.toLocaleString("en");
  $("seed").value = told.live.seed;
  const options = () => $("options").replaceChildren(...Object.entries(told.live.choices[$("model").value]).map(([name, values]) =>
    h("label", {}, name, h("select", { name }, values.map((v) => h("option", { value: JSON.stringify(v) }, v === null ? "none" : String(v)))))));
  $("dataset").addEventListener("change", pad);
  $("model").addEventListener("change", options);
  options();
  $("form").addEventListener("submit", start);
  $("stop").addEventListener("click", () => ask("stop", {}));
  $("resume").addEventListener("click", async () => { if (await ask("resume", {})) follow(live.run); });
  $("clear").addEventListener("click", () => { live.drawn = []; pad(); });
  const canvas = $("pad");
  const bring = (event) => {
    const box = canvas.getBoundingClientRect();
    brush[0] = ((event.clientX - box.left) / box.width - 0.5) * 2 * PAD[2];
    brush[1] = (0.5 - (event.clientY - box.top) / box.height) * 2 * PAD[2];
  };
  canvas.addEventListener("pointerdown", (event) => { if (event.isTrusted) canvas.setPointerCapture(event.pointerId); bring(event); spray(4); });
  canvas.addEventListener("pointermove", (event) => { if (event.buttons) { bring(event); spray(4); } });
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (way) way.forEach((v, i) => { brush[i] = Math.max(-2.9, Math.min(2.9, brush[i] + 0.15 * v)); });
    if (way || event.key === "Enter") event.preventDefault();
    if (event.key === "Enter") spray(12);
    else if (way) pad();
  });
  pad();
  document.querySelector("[data-view=new]").hidden = false;
  tell("Ready.");
}

if (told.live) enliven();
else at.frame = frames() - 1;
listen();
restore();
document.body.dataset.ready = "yes";
