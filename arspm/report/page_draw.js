// Drawing of charts: colours, and a queue that draws a chart when it is scrolled near.

const rgb = (name, style) => style.getPropertyValue(name).trim().match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16));
const interpolated = (from, to, t) => from.map((value, k) => Math.round(value + t * (to[k] - value)));
const mixed = (from, to, t) => `rgb(${interpolated(from, to, t).join(",")})`;

/** Return the colour at a position of the scale, from best (0) to worst (1), as red, green, blue. */
function scaleRgb(position, style) {
  const [from, to, t] = position < 0.5 ? ["--near", "--midway", 2 * position] : ["--midway", "--far", 2 * position - 1];
  return interpolated(rgb(from, style), rgb(to, style), t);
}

/** Return a specification with colour names replaced by values, in attributes named *color or *colorscale. */
function painted(value, style, isColour = false) {
  if (typeof value === "string") {
    if (isColour && value.startsWith("--")) {
      const [name, opacity] = value.split(" "); // "--model 0.2"
      return opacity ? `rgba(${rgb(name, style).join(",")},${opacity})` : style.getPropertyValue(name).trim();
    }
    return isColour && value.startsWith("scale ") ? `rgb(${scaleRgb(Number(value.slice(6)), style).join(",")})` : value;
  }
  if (Array.isArray(value)) return typeof value[0] === "object" || isColour ? value.map((item) => painted(item, style, isColour)) : value;
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, painted(item, style, /color(scale)?$/.test(name))]));
}

const pending = new Map(); // element -> the chart to draw in it
const observer = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => draw(target)), { rootMargin: "600px" });

/** Start Plotly, which takes a second: the page opens without it, and the first chart in view needs it. */
function startLibrary() {
  const library = document.getElementById("library");
  library.type = "text/javascript";
  document.body.append(library); // a script without a type that runs is run when it is inserted again
}

/** Draw an element's pending chart, if any. */
function draw(element) {
  observer.unobserve(element);
  if (!pending.has(element)) return;
  const { data, layout, on = {} } = pending.get(element);
  pending.delete(element);
  const style = getComputedStyle(document.documentElement);
  element.classList.add("chart");
  if (!window.Plotly) startLibrary();
  Plotly.react(element, painted(typeof data === "function" ? data() : data, style), painted(layout, style), { displayModeBar: false, responsive: true });
  for (const [event, listener] of Object.entries(on)) {
    element.removeAllListeners(event);
    element.on(event, listener);
  }
}

const drawAll = () => [...pending.keys()].forEach(draw);

/** Queue a chart, which is drawn when its container is scrolled near; without a chart, show the reason. Its data may be a function, which is called when it is drawn; `on` has listeners of Plotly's events. */
function showChart(container, chart, reason) {
  let element = container.querySelector("[role=img]");
  if (!chart) {
    if (element) { pending.delete(element); observer.unobserve(element); }
    if (element?.classList.contains("chart")) Plotly.purge(element); // it was drawn
    const sentence = document.createElement("p");
    sentence.className = "missing";
    sentence.textContent = reason;
    container.replaceChildren(sentence);
    return;
  }
  if (!element) {
    element = document.createElement("div");
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", container.dataset.label);
    container.replaceChildren(element);
  }
  element.style.minHeight = `${chart.layout.height}px`; // reserves space, so that the page does not jump
  element.style.minWidth = chart.minWidth ? `${chart.minWidth}px` : "";
  pending.set(element, chart);
  observer.unobserve(element); // an element that is already observed would not be reported again
  observer.observe(element);
}
