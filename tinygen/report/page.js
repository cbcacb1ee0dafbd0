"use strict";
// What the scripts of all pages share. Each page's own script follows: it has `at`, DIGITS
// and redraw().
const $ = (id) => document.getElementById(id);
const told = JSON.parse($("data").textContent);
const slow = matchMedia("(prefers-reduced-motion: reduce)");

// -- elements and words -------------------------------------------------------------------------
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined));
  return element;
}
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

function number(v, digits = DIGITS) {
  if (typeof v !== "number") return String(v).replace("inf", "∞").replace("-", "−");
  const size = Math.abs(v);
  let text = String(v);
  if (size !== 0 && (size >= 1e6 || size < 1e-4)) text = v.toExponential(Math.max(0, digits - 2));
  else if (!Number.isInteger(v)) text = String(Number(v.toPrecision(digits)));
  return text.replace("-", "−");
}
const count = (n, what, more = `${what}s`) => `${n.toLocaleString("en")} ${n === 1 ? what : more}`;

// -- views, colours, keys -----------------------------------------------------------------------
const views = [...document.querySelectorAll("[data-view]")]; // buttons
for (const button of views) button.addEventListener("click", () => turnTo(button.dataset.view));
$("theme").addEventListener("click", theme);

function turnTo(view) {
  at.view = view;
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== view;
  for (const button of views) button.setAttribute("aria-current", button.dataset.view === view ? "page" : "false");
  redraw();
}

function theme() {
  const { style } = document.documentElement, asked = style.colorScheme;
  const dark = asked ? asked === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  style.colorScheme = dark ? "light" : "dark";
  redraw();
}

/** Call what is entered for a key, unless the key belongs to what has the focus. */
function listenToKeys(actions, active = () => true) {
  document.addEventListener("keydown", (event) => {
    const { target: { tagName, type }, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || ["SELECT", "CANVAS"].includes(tagName)) return;
    if (tagName === "INPUT" && (type !== "range" || key.startsWith("Arrow") || key === "Home" || key === "End")) return;
    if (tagName === "BUTTON" && (key === " " || key === "Enter")) return;
    const action = active(key) && actions[key.length === 1 ? key.toLowerCase() : key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

/** A button that calls `step` again and again, until it is pressed or `step` returns false. */
function player(id, word, gap, step) {
  let timer = null;
  const set = (on) => {
    clearInterval(timer);
    timer = on ? setInterval(() => step() || set(false), gap) : null;
    $(id).textContent = on ? "❚❚ pause" : `▶ ${word}`;
    document.body.dataset[id] = on ? "playing" : "paused";
  };
  set(false);
  const toggle = () => set(!timer);
  $(id).addEventListener("click", toggle);
  return toggle;
}

// -- the address holds the state ----------------------------------------------------------------
let resting = 0;
/** It is written when the reader rests, for browsers limit how often. */
function remember() {
  clearTimeout(resting);
  if (location.protocol === "about:") return; // in the frame of a notebook, which has no address
  resting = setTimeout(() => history.replaceState(null, "", `#${new URLSearchParams(at)}`), 400);
}

/** Set in `at` what the address says: whole numbers, and the view if that has a button. All it says. */
function recall() {
  const then = new URLSearchParams(location.hash.slice(1)), view = then.get("view");
  for (const [name, value] of then) if (typeof at[name] === "number" && /^\d+$/.test(value)) at[name] = Number(value);
  if (views.some((button) => button.dataset.view === view && !button.hidden)) at.view = view;
  if (then.has("theme")) document.documentElement.style.colorScheme = then.get("theme") === "dark" ? "dark" : "light";
  return then;
}

