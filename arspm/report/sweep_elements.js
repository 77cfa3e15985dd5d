// State of the sweep's page, and helpers that create its elements.
//
// Names, labels and reasons are untrusted: they reach the page as text nodes only, never as HTML.

const NUM_ROWS = matchMedia("(max-width: 700px)").matches ? 20 : 100; // shown initially and with each "show more": 1,000 rows are slow to lay out
const MAX_SELECTED = 6;

let columns = [];
const view = { sort: "best", descending: results.sweep.mode === "max", words: [], state: "", numRows: NUM_ROWS, selected: [], learning: false };
const rows = new Map(); // trial number -> its row, reused so that focus and check boxes survive updates

const byId = (id) => document.getElementById(id);

/** Create an element. properties: attributes and `on...` listeners. children: elements, or strings, which become text nodes. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const cell = (label, ...children) => make("td", { role: "cell", "data-label": label }, ...children);
const textCell = (label, ...children) => make("td", { role: "cell", "data-label": label, class: "text" }, ...children);
const heading = (...children) => make("th", { scope: "row", role: "rowheader" }, ...children);
const row = (...cells) => make("tr", { role: "row" }, ...cells);
const setText = (element, text) => { element.textContent = text; element.hidden = !text; };
