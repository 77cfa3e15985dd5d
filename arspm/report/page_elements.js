// Helpers that create the elements of a page.
//
// Names, labels and reasons are untrusted: they reach the page as text nodes only, never as HTML.

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

/** Show the options of a select element, as pairs of value and text, and choose one. */
function showOptions(select, options, chosen) {
  const known = options.map(([value, text]) => `${value}\t${text}`).join("\n");
  if (select.dataset.known !== known) select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  select.dataset.known = known;
  select.value = chosen;
}
