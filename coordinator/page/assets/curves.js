// Draws each .plot from its data-curve, with the page's colours, and again when either changes.
"use strict";

(() => {
  const HEIGHT = 190;
  const drawn = new WeakMap();
  const sizes = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      const plot = drawn.get(target)?.plot;
      if (plot && contentRect.width && plot.width !== Math.floor(contentRect.width)) {
        plot.setSize({ width: Math.floor(contentRect.width), height: HEIGHT });
      }
    }
  });

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function inBytes(value) {
    for (const unit of ["B", "kB", "MB", "GB"]) {
      if (Math.abs(value) < 1000) return `${Number(value.toPrecision(3))} ${unit}`;
      value /= 1000;
    }
    return `${Number(value.toPrecision(3))} TB`;
  }

  const WRITERS = {
    share: (value) => `${Number((100 * value).toFixed(2))} %`,
    bytes: inBytes,
    seconds: (value) => `${Number(value.toPrecision(3))} s`,
    "": (value) => `${Number(value.toPrecision(4))}`,
  };

  // What the legend says while no pointer asks for a round.
  function showNewest(plot) {
    if (!(plot.cursor.left >= 0)) plot.setLegend({ idx: plot.data[0].length - 1 }, false);
  }

  function columns({ rounds, series, band }) {
    const bounds = band ? [band.most, band.least] : [];
    return [rounds, ...series.map((one) => one.values), ...bounds];
  }

  function options(curve, width) {
    const write = WRITERS[curve.unit];
    const shown = (_plot, value) => (value === null || value === undefined ? "–" : write(value));
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false } };
    const series = curve.series.map((one, index) => ({
      label: one.name,
      stroke: colour(`--curve-${index + 1}`),
      width: 1.75,
      spanGaps: true,
      value: shown,
      dash: [[], [6, 4], [2, 3]][index],
    }));
    const bounds = ["highest client", "lowest client"].map((label) => ({
      label,
      stroke: "transparent",
      points: { show: false },
      spanGaps: true,
      value: shown,
    }));
    const first = curve.series.length + 1;
    const fromZero = curve.unit === "bytes" || curve.unit === "seconds";
    return {
      width,
      height: HEIGHT,
      scales: { x: { time: false }, y: fromZero ? { range: (_plot, _low, high) => [0, high ? 1.08 * high : 1] } : {} },
      axes: [
        { ...axis, grid: { show: false }, size: 28, space: 60, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] },
        { ...axis, size: 64, values: (_plot, marks) => marks.map(write) },
      ],
      series: [{ label: curve.width > 1 ? `up to round (each point ${curve.width})` : "round" }, ...series, ...(curve.band ? bounds : [])],
      bands: curve.band ? [{ series: [first, first + 1], fill: colour("--band") }] : [],
      cursor: { drag: { x: false, y: false }, y: false },
      hooks: { ready: [showNewest], setData: [showNewest], setCursor: [showNewest] },
    };
  }

  function draw(element, again = false) {
    const before = drawn.get(element);
    const text = element.dataset.curve;
    if (before && before.text === text && !again) return;
    const curve = JSON.parse(text);
    const names = JSON.stringify([curve.series.map((one) => one.name), Boolean(curve.band), curve.width]);
    if (before && before.names === names && !again) {
      before.plot.setData(columns(curve));
      before.text = text;
      return;
    }
    before?.plot.destroy();
    element.replaceChildren();
    const plot = new uPlot(options(curve, Math.floor(element.clientWidth)), columns(curve), element);
    drawn.set(element, { plot, text, names });
    sizes.observe(element);
  }

  const drawAll = (again) => document.querySelectorAll(".plot").forEach((element) => draw(element, again));

  document.addEventListener("htmx:after:swap", () => drawAll(false));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(true));
  drawAll(false);
})();
