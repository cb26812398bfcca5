"use strict";
/* Draws what report/explore.py has left in the page: a table to sort and filter, a picture of all rows, and a panel
   for the one that was chosen. All text is set as text, never as HTML; nothing is fetched, nothing is evaluated. */
(() => {
  const ROW = 30; // px, height of a row of the table
  const PALETTE = 8; // colors of groups, --g0 and so on
  const PRINTED = 25; // rows on paper

  // --- elements -----------------------------------------------------------------------------------------------------
  const SVG = "http://www.w3.org/2000/svg";
  const fill = (element, attributes, children) => {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined) continue;
      if (value === false && !name.startsWith("aria-")) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "style") Object.assign(element.style, value);
      else element.setAttribute(name, value === true && !name.startsWith("aria-") ? "" : String(value));
    }
    element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
    return element;
  };
  const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

  // --- numbers ------------------------------------------------------------------------------------------------------
  const known = (value) => value !== null && value !== undefined && value !== "";
  const number = (value) => typeof value === "number";
  function shown(value) {
    if (!known(value)) return "–";
    if (!number(value)) return String(value);
    if (Number.isInteger(value)) return value.toLocaleString("en-US");
    const size = Math.abs(value);
    if (size >= 1e4 && size < 1e15) return Math.round(value).toLocaleString("en-US");
    if (size < 1e-4 || size >= 1e15) return value.toPrecision(4);
    return String(Number(value.toPrecision(4)));
  }
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  function quantile(sorted, share) {
    const place = share * (sorted.length - 1), below = Math.floor(place);
    return sorted[below] + (sorted[Math.min(below + 1, sorted.length - 1)] - sorted[below]) * (place - below);
  }
  const sorted = (values) => Float64Array.from(values).sort();
  /* Numbers by their size and before words: a column of both holds all of them as text. */
  const collate = new Intl.Collator("en", { numeric: true }).compare;
  function inOrder(a, b) {
    const left = Number(a), right = Number(b), numbers = [left, right].map(Number.isFinite);
    if (numbers[0] && numbers[1]) return left - right;
    return numbers[1] - numbers[0] || collate(String(a), String(b));
  }
  function ticks(low, high, most) {
    const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999) * power;
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(Number((i * step).toPrecision(12)));
    return found;
  }
  /* Where most values lie: a few far away are drawn at the edge, so that the others have room. */
  function range(values) {
    if (!values.length) return [0, 1];
    const all = sorted(values), near = quantile(all, 0.05), far = quantile(all, 0.95), room = 1.5 * (far - near);
    let low = Math.max(all[0], near - room), high = Math.min(all[all.length - 1], far + room);
    if (!(high > low)) [low, high] = [low - 0.5, high + 0.5];
    return [low - 0.04 * (high - low), high + 0.04 * (high - low)];
  }

  // --- the table's data ---------------------------------------------------------------------------------------------
  /* Blocks of one key, joined by group and name. */
  class Data {
    constructor(blocks) {
      const first = blocks[0];
      Object.assign(this, { key: first.key, title: first.title, group: first.group, name: first.name });
      this.groups = []; this.rows = []; this.columns = new Map(); this.panels = [];
      const place = new Map();
      for (const block of blocks) {
        const rows = block.names.map((name, i) => {
          const group = block.groups[block.group_of[i]], id = JSON.stringify([group, name]);
          if (!place.has(id)) {
            place.set(id, this.rows.length);
            if (!this.groups.includes(group)) this.groups.push(group);
            this.rows.push({ name, group, number: this.groups.indexOf(group) });
          }
          return place.get(id);
        });
        for (const column of block.columns) {
          const own = this.columns.get(column.key) || { ...column, values: [] };
          rows.forEach((row, i) => { if (known(column.values[i])) own.values[row] ??= column.values[i]; });
          this.columns.set(column.key, own);
        }
        const index = new Map(rows.map((row, i) => [row, i]));
        const clip = block.groups;
        this.panels.push(...block.panels.map((panel) => ({ panel, index, groups: clip, of: block.group_of })));
      }
      this.axes = (blocks.find((block) => block.axes.length) || first).axes;
      this.sort = first.sort;
      for (const column of this.columns.values()) {
        column.text = column.values.some((value) => known(value) && !number(value));
      }
    }
    value(row, key) {
      const value = this.columns.get(key).values[row];
      return value === undefined ? null : value;
    }
    /* The column that a reader means by its key or its title. */
    called(word) {
      const lower = word.trim().toLowerCase();
      return [...this.columns.values()].find((c) => c.key.toLowerCase() === lower || c.title.toLowerCase() === lower);
    }
    numeric() { return [...this.columns.values()].filter((column) => !column.text); }
  }

  const comparison = (term) => /^(.*?)\s*(<=|>=|≤|≥|<|>|=)\s*(-?[\d.]+(?:e[-+]?\d+)?)$/i.exec(term);
  /* A word of a column of words, such as "status = finished": the column and the word, null where it has no such. */
  function equality(data, term) {
    const [, title, word] = /^(.*?)\s*=\s*(.+)$/.exec(term.toLowerCase()) || [], column = title && data.called(title);
    return column && column.text && column.values.some((v) => known(v) && String(v).toLowerCase() === word) ? [column, word] : null;
  }
  /* The parts of a filter. A title, or a value, may hold a comma itself: then so many parts are one as are known. */
  function termsOf(data, query) {
    const parts = query.split(/(,|\band\b|&&)/i), terms = []; // what separates them stands at odd places
    for (let first = 0; first < parts.length; first += 2) {
      let term = parts[first].trim();
      for (let last = first; last < parts.length; last += 2) {
        const whole = parts.slice(first, last + 1).join("").trim(), found = comparison(whole);
        if ((found && data.called(found[1])) || equality(data, whole)) { [term, first] = [whole, last]; break; }
      }
      if (term) terms.push(term);
    }
    return terms;
  }

  /* "retina, bps > 0.5, corr <= 0.3": words of the name, the group or a column of words; and comparisons. */
  function filterOf(data, query) {
    const tests = [], unknown = [];
    for (const term of termsOf(data, query)) {
      const word = equality(data, term);
      if (word) {
        tests.push((row) => String(data.value(row, word[0].key)).toLowerCase() === word[1]);
        continue;
      }
      const found = comparison(term), column = found && data.called(found[1]);
      if (found && column) {
        const limit = Number(found[3]);
        const compare = {
          "<": (v) => v < limit, ">": (v) => v > limit, "<=": (v) => v <= limit, "≤": (v) => v <= limit,
          ">=": (v) => v >= limit, "≥": (v) => v >= limit, "=": (v) => Math.abs(v - limit) <= 1e-6 * Math.abs(limit), // a page keeps seven digits
        }[found[2]];
        tests.push((row) => {
          const value = data.value(row, column.key);
          return known(value) && compare(Number(value));
        });
        continue;
      }
      if (found) unknown.push(found[1]);
      const words = term.toLowerCase(), texts = [...data.columns.values()].filter((c) => c.text);
      tests.push((row) => {
        const { name, group } = data.rows[row];
        return [name, group, ...texts.map((c) => data.value(row, c.key))].some(
          (text) => known(text) && String(text).toLowerCase().includes(words));
      });
    }
    return { test: (row) => tests.every((test) => test(row)), unknown };
  }

  // --- the whole ----------------------------------------------------------------------------------------------------
  class Explorer {
    constructor(data, host) {
      this.data = data;
      this.on = new Set(data.groups.keys());
      this.ranges = new Map(); // of parallel axes: key -> [low, high]
      this.columns = [...data.columns.values()].filter((column) => column.shown).map((column) => column.key);
      this.order = { key: data.sort, down: true };
      [this.x, this.y] = data.axes;
      this.query = "";
      this.chosen = null;
      this.build(host);
      this.update();
      if (this.view.length) this.choose(this.view[0], false);
    }

    build(host) {
      const { data } = this, id = `explore-${data.key}`;
      this.status = h("p", { class: "x-status", role: "status" });
      this.search = h("input", {
        type: "search", spellcheck: "false", placeholder: `a ${data.name}'s name, or ${data.sort} > 0.5`,
        oninput: () => { this.query = this.search.value; this.update(); },
      });
      this.chips = data.groups.length < 2 ? null : h("div", { class: "x-chips", role: "group", "aria-label": `${data.group}s` },
        h("button", { type: "button", class: "x-chip x-all", onclick: () => this.toggle(null) }, `all ${data.group}s`),
        data.groups.map((group, i) => h("button", {
          type: "button", class: "x-chip", "aria-pressed": "true", title: group, onclick: () => this.toggle(i),
        }, h("i", { style: { background: color(i) } }), group)));
      const boxes = [...data.columns.values()].map((column) => h("label", { title: column.key }, h("input", {
        type: "checkbox", checked: column.shown, value: column.key,
        onchange: (event) => this.column(column.key, event.target.checked),
      }), column.title));
      this.picture = h("div", { class: "x-picture" });
      this.panel = h("div", { class: "x-panel", role: "region", "aria-label": `the chosen ${data.name}` });
      this.head = h("thead"); this.body = h("tbody"); this.foot = h("tfoot");
      this.table = h("table", {
        role: "grid", tabindex: "0", "aria-label": data.title, id: `${id}-table`, onkeydown: (event) => this.key(event),
      }, this.head, this.body, this.foot);
      let waiting = false;
      this.scroll = h("div", {
        class: "x-rows", onscroll: () => {
          if (!waiting) requestAnimationFrame(() => { waiting = false; this.fillRows(); });
          waiting = true;
        },
      }, this.table);
      host.append(h("div", { class: data.axes.length ? "explorer" : "explorer x-parallel", id },
        h("h3", {}, data.title),
        h("div", { class: "x-tools" },
          h("label", { class: "x-search" }, h("span", {}, "Filter"), this.search),
          h("details", { class: "x-columns" }, h("summary", {}, "Metrics"), h("div", {}, boxes))),
        this.chips, this.status,
        this.scroll,
        h("div", { class: "x-split" }, this.picture, this.panel),
        h("p", { class: "x-hint" }, `Click a heading to sort. In the table and in the picture, arrow keys go from ${data.name} to ${data.name}.`)));
      addEventListener("beforeprint", () => { this.printing = true; this.fillRows(); });
      addEventListener("afterprint", () => { this.printing = false; this.fillRows(); });
      addEventListener("resize", () => this.fillRows());
    }

    toggle(i) {
      if (i === null) this.on = new Set(this.on.size === this.data.groups.length ? [] : this.data.groups.keys());
      else if (!this.on.delete(i)) this.on.add(i);
      [...this.chips.querySelectorAll("[aria-pressed]")].forEach((chip, k) => chip.setAttribute("aria-pressed", this.on.has(k)));
      this.update();
    }

    column(key, on) {
      const order = [...this.data.columns.keys()];
      this.columns = order.filter((k) => (k === key ? on : this.columns.includes(k)));
      if (!on) this.ranges.delete(key);
      this.update();
    }

    sortBy(key) {
      const text = key === "" || key === " " || this.data.columns.get(key).text;
      this.order = this.order.key === key ? { key, down: !this.order.down } : { key, down: !text };
      this.update();
      const button = this.head.querySelector("[aria-sort] button");
      if (button) button.focus();
    }

    /* All that follows from what was chosen above the table. */
    update() {
      const { data } = this, { test, unknown } = filterOf(data, this.query), { key, down } = this.order;
      const kept = (row) => [...this.ranges].every(([column, [low, high]]) => {
        const place = this.places.get(column)(data.value(row, column));
        return place !== null && place >= low && place <= high;
      });
      this.view = [...data.rows.keys()].filter((row) => this.on.has(data.rows[row].number) && test(row) && kept(row));
      const of = key === "" ? (row) => data.rows[row].name : key === " " ? (row) => data.rows[row].group : (row) => data.value(row, key);
      const values = new Map(this.view.map((row) => [row, of(row)]));
      this.view.sort((a, b) => {
        const left = values.get(a), right = values.get(b);
        if (!known(left) || !known(right)) return known(left) ? -1 : known(right) ? 1 : a - b; // what is not known comes last
        return (down ? -1 : 1) * inOrder(left, right) || a - b;
      });
      const many = `${this.view.length.toLocaleString("en-US")} of ${data.rows.length.toLocaleString("en-US")} ${data.name}s`;
      this.status.textContent = unknown.length ? `${many}. There is no number called ${unknown.join(", ")}.` : `${many}.`;
      this.draw();
      this.fillHead();
      this.scroll.scrollTop = 0;
      this.fillRows();
      if (this.chosen !== null) this.fillPanel(); // its rank, and what comes next, have changed
    }

    // --- table
    fillHead() {
      const { data } = this;
      const heading = (key, title, hint, text) => {
        const sort = this.order.key === key ? (this.order.down ? "descending" : "ascending") : null;
        return h("th", { scope: "col", "aria-sort": sort, class: text ? null : "number" },
          h("button", { type: "button", title: hint, onclick: () => this.sortBy(key) }, title));
      };
      this.head.replaceChildren(h("tr", {}, heading("", data.name, data.name, true),
        data.groups.length > 1 ? heading(" ", data.group, data.group, true) : null,
        this.columns.map((key) => {
          const column = data.columns.get(key);
          return heading(key, column.title, key, column.text);
        })));
      const middle = this.columns.map((key) => {
        const values = data.columns.get(key).text ? [] : this.view.map((row) => data.value(row, key)).filter(number);
        return h("td", { class: data.columns.get(key).text ? null : "number" }, values.length ? shown(quantile(sorted(values), 0.5)) : "");
      });
      this.foot.replaceChildren(h("tr", {}, h("td", {}, "median"), data.groups.length > 1 ? h("td") : null, middle));
      this.table.setAttribute("aria-rowcount", this.view.length + 1);
    }

    fillRows() {
      const { data, view } = this;
      const first = this.printing ? 0 : clamp(Math.floor(this.scroll.scrollTop / ROW) - 8, 0, Math.max(0, view.length - 1));
      const last = Math.min(view.length, this.printing ? PRINTED : first + Math.ceil(this.scroll.clientHeight / ROW) + 16);
      const gap = (rows) => (rows > 0 && !this.printing ? h("tr", { class: "x-gap", "aria-hidden": "true", style: { height: `${rows * ROW}px` } }) : null);
      const lines = view.slice(first, last).map((row, i) => {
        const { name, group, number: of } = data.rows[row], chosen = row === this.chosen;
        return h("tr", {
          id: `${this.table.id}-${row}`, "aria-selected": chosen, "aria-rowindex": first + i + 2, onclick: () => this.choose(row),
        }, h("th", { scope: "row", title: name }, name),
        data.groups.length > 1 ? h("td", { title: group }, h("i", { style: { background: color(of) } }), group) : null,
        this.columns.map((key) => h("td", { class: data.columns.get(key).text ? null : "number" }, shown(data.value(row, key)))));
      });
      this.body.replaceChildren(...[gap(first), ...lines, gap(view.length - last)].filter(Boolean));
      if (view.slice(first, last).includes(this.chosen)) this.table.setAttribute("aria-activedescendant", `${this.table.id}-${this.chosen}`);
      else this.table.removeAttribute("aria-activedescendant");
    }

    key(event) {
      if (event.target !== this.table || event.ctrlKey || event.metaKey || event.altKey) return;
      const page = Math.max(1, Math.floor(this.scroll.clientHeight / ROW) - 3), last = this.view.length - 1;
      const at = this.view.indexOf(this.chosen);
      const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: last }[event.key];
      if (to === undefined || last < 0) return;
      event.preventDefault();
      this.choose(this.view[clamp(to, 0, last)]);
    }

    choose(row, look = true) {
      this.chosen = row;
      const at = this.view.indexOf(row);
      if (look && at >= 0) {
        const top = at * ROW, head = 2 * ROW, room = this.scroll.clientHeight - head - ROW;
        if (top < this.scroll.scrollTop) this.scroll.scrollTop = top;
        else if (top > this.scroll.scrollTop + room - ROW) this.scroll.scrollTop = top - room + ROW;
      }
      this.fillRows();
      this.mark();
      this.fillPanel();
    }

    step(by) {
      const at = this.view.indexOf(this.chosen);
      if (this.view.length) this.choose(this.view[clamp(at + by, 0, this.view.length - 1)]);
    }

    // --- picture
    draw() { if (this.data.axes.length) this.drawScatter(); else this.drawParallel(); }
    mark() { if (this.data.axes.length) this.markPoint(); else this.markLine(); }

    drawScatter() {
      const { data } = this, W = 400, H = 380, L = 50, R = 10, T = 10, B = 42;
      const x = data.columns.get(this.x), y = data.columns.get(this.y);
      const same = x.quantity && x.quantity === y.quantity;
      const shownRows = [...data.rows.keys()].filter((row) => this.on.has(data.rows[row].number) && number(data.value(row, x.key)) && number(data.value(row, y.key)));
      const xs = shownRows.map((row) => data.value(row, x.key)), ys = shownRows.map((row) => data.value(row, y.key));
      const [x0, x1] = same ? range([...xs, ...ys]) : range(xs), [y0, y1] = same ? [x0, x1] : range(ys);
      const px = (v) => L + (W - L - R) * (clamp(v, x0, x1) - x0) / (x1 - x0), py = (v) => H - B - (H - T - B) * (clamp(v, y0, y1) - y0) / (y1 - y0);
      const inView = new Set(this.view);
      this.points = shownRows.map((row) => ({ row, x: px(data.value(row, x.key)), y: py(data.value(row, y.key)), in: inView.has(row) }));
      const dots = this.points.map((point) => s("circle", {
        cx: point.x.toFixed(1), cy: point.y.toFixed(1), r: 3.4, class: point.in ? null : "x-out", fill: color(data.rows[point.row].number),
      }));
      const axes = [
        ticks(x0, x1, 6).map((v) => s("g", {}, s("line", { x1: px(v), x2: px(v), y1: H - B, y2: H - B + 4 }), s("text", { x: px(v), y: H - B + 16, "text-anchor": "middle" }, shown(v)))),
        ticks(y0, y1, 6).map((v) => s("g", {}, s("line", { x1: L - 4, x2: L, y1: py(v), y2: py(v) }), s("text", { x: L - 7, y: py(v) + 4, "text-anchor": "end" }, shown(v)))),
        s("path", { d: `M${L} ${T}V${H - B}H${W - R}` }),
      ];
      this.ring = s("circle", { r: 7, class: "x-ring", visibility: "hidden" });
      this.svg = s("svg", { viewBox: `0 0 ${W} ${H}`, tabindex: "0", role: "application", "aria-label": `${y.title} against ${x.title}, a point a ${data.name}; arrow keys go from one to the next` },
        s("g", { class: "x-axes" }, axes),
        same ? s("path", { class: "x-diagonal", d: `M${px(x0)} ${py(x0)}L${px(x1)} ${py(x1)}` }) : null,
        s("g", { class: "x-points" }, dots), this.ring,
        s("text", { class: "x-title", x: (L + W - R) / 2, y: H - 6, "text-anchor": "middle" }, x.title),
        s("text", { class: "x-title", transform: `translate(12 ${(T + H - B) / 2}) rotate(-90)`, "text-anchor": "middle" }, y.title));
      const nearest = (event) => {
        const at = local(this.svg, event);
        let best = null, least = 15 ** 2;
        for (const point of this.points) {
          const away = (point.x - at.x) ** 2 + (point.y - at.y) ** 2;
          if (point.in && away <= least) [best, least] = [point, away];
        }
        return best;
      };
      this.svg.addEventListener("click", (event) => { const point = nearest(event); if (point) this.choose(point.row); });
      this.svg.addEventListener("pointermove", (event) => {
        const point = nearest(event);
        this.svg.style.cursor = point ? "pointer" : "";
        this.say.textContent = point ? `${data.rows[point.row].name}: ${shown(data.value(point.row, x.key))}, ${shown(data.value(point.row, y.key))}` : this.counted(same);
      });
      this.svg.addEventListener("keydown", (event) => {
        const axis = { ArrowLeft: "x", ArrowRight: "x", ArrowUp: "y", ArrowDown: "y" }[event.key];
        if (!axis) return;
        event.preventDefault();
        const line = this.points.filter((point) => point.in).sort((a, b) => a[axis] - b[axis] || a.row - b.row);
        const by = event.key === "ArrowLeft" || event.key === "ArrowUp" ? -1 : 1, at = line.findIndex((point) => point.row === this.chosen);
        if (line.length) this.choose(line[at < 0 ? 0 : clamp(at + by, 0, line.length - 1)].row);
      });
      const pick = (axis, now) => h("label", {}, `${axis} `, h("select", {
        onchange: (event) => { this[axis] = event.target.value; this.draw(); this.mark(); this.picture.querySelector(`[data-axis=${axis}]`).focus(); }, "data-axis": axis,
      }, data.numeric().map((column) => h("option", { value: column.key, selected: column.key === now }, column.title))));
      this.say = h("p", { class: "x-say" }, this.counted(same));
      this.picture.replaceChildren(h("div", { class: "x-axis-tools" }, pick("y", this.y), pick("x", this.x)), this.svg, this.say);
      this.markPoint();
    }

    /* Of a picture with one scale: for how many rows the one is above the other. */
    counted(same) {
      const inside = this.points.filter((point) => point.in);
      if (!same || !inside.length || this.x === this.y) return `${inside.length.toLocaleString("en-US")} ${this.data.name}s`;
      const above = inside.filter((point) => this.data.value(point.row, this.y) > this.data.value(point.row, this.x)).length;
      return `above the line: ${above.toLocaleString("en-US")} of ${inside.length.toLocaleString("en-US")} ${this.data.name}s`;
    }

    markPoint() {
      const point = this.points.find((own) => own.row === this.chosen);
      this.ring.setAttribute("visibility", point ? "visible" : "hidden");
      if (point) { this.ring.setAttribute("cx", point.x); this.ring.setAttribute("cy", point.y); }
    }

    drawParallel() {
      const { data } = this, keys = this.columns.filter((key) => data.columns.get(key).values.some(known));
      const W = Math.max(520, 150 * keys.length), H = 350, T = 62, B = 34, M = 60;
      this.places = new Map(); // key -> value -> place from 0 (bottom) to 1, or null
      const labels = new Map();
      for (const key of keys) {
        const column = data.columns.get(key), values = column.values.filter(known);
        if (column.text) {
          const words = [...new Set(values.map(String))].sort(inOrder);
          const at = new Map(words.map((word, i) => [word, words.length < 2 ? 0.5 : i / (words.length - 1)]));
          this.places.set(key, (v) => (known(v) ? at.get(String(v)) : null));
          labels.set(key, (words.length <= 12 ? words : [words[0], words[words.length - 1]]).map((word) => [at.get(word), word]));
          continue;
        }
        const own = [...new Set(values)].sort((a, b) => a - b);
        const log = own[0] > 0 && own[own.length - 1] / own[0] >= 8, scale = log ? Math.log : (v) => v;
        let low = scale(own[0]), high = scale(own[own.length - 1]);
        if (!(high > low)) [low, high] = [low - 1, high + 1];
        const place = (v) => (number(v) ? (scale(v) - low) / (high - low) : null);
        this.places.set(key, place);
        const few = own.length <= 6 ? own : log ? [0, 0.25, 0.5, 0.75, 1].map((p) => Math.exp(low + p * (high - low))) : ticks(low, high, 5);
        labels.set(key, few.map((v) => [place(v), shown(log && own.length > 6 ? Number(v.toPrecision(2)) : v)]));
      }
      const px = (i) => (keys.length < 2 ? W / 2 : M + (W - 2 * M) * i / (keys.length - 1)), py = (p) => H - B - (H - T - B) * p;
      const inView = new Set(this.view), best = this.places.get(data.sort);
      /* Where many lines meet in one value, they stand side by side, the best above. */
      const spread = keys.map((key) => {
        const at = new Map(), score = (row) => data.value(row, data.sort) ?? -Infinity;
        for (const row of data.rows.keys()) {
          const value = data.value(row, key);
          at.set(value, [...(at.get(value) || []), row]);
        }
        const room = at.size > 12 ? 0 : Math.min(26, 0.5 * (H - T - B) / Math.max(1, at.size - 1)), off = new Map();
        for (const rows of at.values()) {
          rows.sort((a, b) => score(b) - score(a)).forEach((row, k) => off.set(row, rows.length < 2 ? 0 : room * (k / (rows.length - 1) - 0.5)));
        }
        return off;
      });
      const lines = [...data.rows.keys()].map((row) => {
        const points = keys.map((key, i) => { const p = this.places.get(key)(data.value(row, key)); return p === null ? null : [px(i), py(p) + spread[i].get(row)]; });
        const d = points.map((p, i) => (p ? `${i && points[i - 1] ? "L" : "M"}${p[0].toFixed(1)} ${p[1].toFixed(1)}` : "")).join("");
        const score = best ? best(data.value(row, data.sort)) : null;
        return { row, points, in: inView.has(row), score, d };
      }).sort((a, b) => a.in - b.in || (a.score ?? -1) - (b.score ?? -1)); // the best are drawn last
      this.lines = lines;
      const paths = lines.map((line) => s("path", {
        d: line.d, class: line.in ? "x-line" : "x-line x-out", "data-row": line.row,
        style: { stroke: line.score === null ? "var(--soft)" : `color-mix(in srgb, var(--accent) ${Math.round(100 * clamp(line.score, 0, 1))}%, var(--low))` },
      }));
      this.markLine = () => {
        const chosen = lines.find((line) => line.row === this.chosen);
        paths.forEach((path, i) => path.classList.toggle("x-chosen", lines[i] === chosen));
        this.over.setAttribute("d", chosen && chosen.in ? chosen.d : "");
      };
      this.over = s("path", { class: "x-line x-over" });
      const axes = keys.map((key, i) => {
        const column = data.columns.get(key), brushed = this.ranges.get(key);
        const axis = s("g", { class: "x-parallel-axis" },
          s("line", { x1: px(i), x2: px(i), y1: T - 16, y2: H - B + 16 }),
          s("text", { class: "x-title", x: px(i), y: 16 + 15 * (i % 2), "text-anchor": "middle" }, cut(column.title, 26), s("title", {}, key)),
          labels.get(key).map(([p, text]) => s("text", { x: px(i) + 6, y: py(p) + 4, class: "x-tick" }, cut(text, 14), s("title", {}, text))),
          brushed ? s("rect", { class: "x-brush", x: px(i) - 8, width: 16, y: py(Math.min(brushed[1], 1.02)), height: Math.max(2, py(Math.max(brushed[0], -0.02)) - py(Math.min(brushed[1], 1.02))) }) : null);
        return axis;
      });
      this.svg = s("svg", { viewBox: `0 0 ${W} ${H}`, tabindex: "0", role: "application", "aria-label": `a line a ${data.name} across its values; arrow keys go from one to the next` },
        paths, axes, this.over);
      const axisAt = (x) => keys.findIndex((_, i) => Math.abs(px(i) - x) < 14);
      const nearest = (at) => {
        let best = null, least = 10;
        for (const line of lines) {
          if (!line.in) continue;
          for (let i = 0; i + 1 < line.points.length; i++) {
            const [a, b] = [line.points[i], line.points[i + 1]];
            if (!a || !b || at.x < a[0] || at.x > b[0]) continue;
            const share = (at.x - a[0]) / (b[0] - a[0]), away = Math.abs(a[1] + share * (b[1] - a[1]) - at.y);
            if (away <= least) [best, least] = [line, away];
          }
        }
        return best;
      };
      let from = null;
      this.svg.addEventListener("pointerdown", (event) => {
        const at = local(this.svg, event), i = axisAt(at.x);
        from = { at, i };
        if (i >= 0) { this.svg.setPointerCapture(event.pointerId); event.preventDefault(); }
      });
      this.svg.addEventListener("pointerup", (event) => {
        const at = local(this.svg, event);
        if (from && from.i >= 0) {
          const key = keys[from.i], place = (y) => (H - B - y) / (H - T - B), [low, high] = [place(Math.max(at.y, from.at.y)), place(Math.min(at.y, from.at.y))];
          if (Math.abs(at.y - from.at.y) > 4) this.ranges.set(key, [low, high]); else this.ranges.delete(key);
          this.update();
        } else if (from) {
          const line = nearest(at);
          if (line) this.choose(line.row);
        }
        from = null;
      });
      this.svg.addEventListener("pointermove", (event) => { const at = local(this.svg, event); this.svg.style.cursor = axisAt(at.x) >= 0 ? "ns-resize" : nearest(at) ? "pointer" : ""; });
      this.svg.addEventListener("keydown", (event) => {
        const by = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1 }[event.key];
        if (by) { event.preventDefault(); this.step(by); }
      });
      const clear = this.ranges.size ? h("button", { type: "button", class: "x-chip", onclick: () => { this.ranges.clear(); this.update(); } }, "show all again") : null;
      this.picture.replaceChildren(h("div", { class: "x-wide" }, this.svg),
        h("p", { class: "x-say" }, `A line a ${data.name}; the bluer, the better by ${data.columns.get(data.sort).title}. Drag along an axis to keep a part of it. `, clear));
      this.markLine();
    }

    // --- panel
    fillPanel() {
      const { data } = this, row = this.chosen;
      const { name, group, number: of } = data.rows[row], at = this.view.indexOf(row);
      const blocks = data.panels.flatMap(({ panel, index, of: groupOf }) => {
        const own = index.get(row);
        if (own === undefined) return [];
        const drawn = DRAW[panel.kind]({ panel, own, group: groupOf[own], row, data, view: this.view });
        return drawn ? [h("section", { class: `x-block x-${panel.kind}` }, h("h5", {}, panel.title), drawn)] : [];
      });
      const all = [...data.columns.values()].filter((column) => known(data.value(row, column.key)));
      const opened = this.panel.querySelector("details.x-numbers");
      this.panel.replaceChildren(
        h("header", {}, h("h4", {}, h("span", { class: "x-name" }, name),
          data.groups.length > 1 || group ? h("small", {}, h("i", { style: { background: color(of) } }), group) : null,
          at < 0 ? h("small", { class: "x-absent" }, "not among those shown") : null),
        h("nav", { class: "x-step" },
          h("button", { type: "button", "aria-label": `previous ${data.name}`, disabled: at <= 0, onclick: () => this.stepAndStay(-1) }, "‹"),
          h("button", { type: "button", "aria-label": `next ${data.name}`, disabled: at < 0 || at >= this.view.length - 1, onclick: () => this.stepAndStay(1) }, "›"))),
        ...blocks,
        h("details", { class: "x-numbers", open: blocks.length === 0 || (opened !== null && opened.open) },
          h("summary", {}, `All numbers of this ${data.name}`),
          h("dl", {}, all.map((column) => [h("dt", { title: column.key }, column.title), h("dd", { "data-key": column.key }, shown(data.value(row, column.key)))]))));
    }

    stepAndStay(by) {
      this.step(by);
      const button = this.panel.querySelectorAll(".x-step button")[by < 0 ? 0 : 1];
      (button.disabled ? this.table : button).focus();
    }
  }

  // --- parts of the panel -------------------------------------------------------------------------------------------
  const color = (i) => `var(--g${i % PALETTE})`;
  const role = (name) => `var(--${/^m\d+$/.test(name) ? `g${Number(name.slice(1)) % PALETTE}` : name})`;
  const cut = (text, most) => (text.length <= most ? text : `${text.slice(0, most - 1)}…`);
  function local(svg, event) {
    const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
    return { x: (event.clientX - box.left) * view.width / box.width, y: (event.clientY - box.top) * view.height / box.height };
  }
  const legend = (items) => h("p", { class: "x-legend" }, items.map(([text, name, kind]) => h("span", {}, h("i", { class: kind || null, style: { background: role(name) } }), text)));

  /* Numbers beside each other, and where the first lies among all that are shown. */
  function drawScores({ panel, row, data, view }) {
    const rows = panel.rows.map(([title, of]) => ({ title, of: of.filter(([, , key]) => known(data.value(row, key))) })).filter(({ of }) => of.length);
    if (!rows.length) return null;
    return h("div", {}, rows.map(({ title, of }) => {
      const first = data.columns.get(of[0][2]);
      const bounds = of.map(([, , key]) => { const c = data.columns.get(key); return c.low ? [data.value(row, c.low), data.value(row, c.high)] : [null, null]; });
      const values = sorted(view.map((r) => data.value(r, first.key)).filter(number)), own = data.value(row, first.key);
      const below = values.filter((v) => v < own).length;
      const rank = values.length > 1 && view.includes(row) ? `above ${Math.round(100 * below / (values.length - 1))} % of ${values.length.toLocaleString("en-US")}` : "";
      return h("div", { class: "x-score" },
        h("div", { class: "x-score-title" }, h("b", {}, title), h("small", {}, rank)),
        line(of, bounds, data, row, values),
        h("ul", {}, of.map(([text, name, key], i) => h("li", {}, h("i", { style: { background: role(name) } }), `${text} `,
          h("span", { class: "x-value", "data-key": key }, shown(data.value(row, key))),
          number(bounds[i][0]) && number(bounds[i][1]) ? h("span", { class: "x-interval", title: "95 % interval" }, ` [${shown(bounds[i][0])}, ${shown(bounds[i][1])}]`) : null))));
    }));
  }

  function line(of, bounds, data, row, values) {
    const own = of.map(([, , key]) => data.value(row, key)), ends = bounds.flat().filter(number);
    let [low, high] = range([...values, 0]);
    low = Math.min(low, ...own, ...ends); high = Math.max(high, ...own, ...ends);
    const W = 600, H = 22, px = (v) => 4 + (W - 8) * (v - low) / (high - low || 1);
    const bars = new Array(60).fill(0);
    for (const v of values) if (v >= low && v <= high) bars[Math.min(59, Math.floor(60 * (v - low) / (high - low || 1)))] += 1;
    const most = Math.max(...bars, 1), cloud = `M${px(low)} 18${bars.map((n, i) => `V${(18 - 15 * n / most).toFixed(1)}H${px(low + (high - low) * (i + 1) / 60).toFixed(1)}`).join("")}V18Z`;
    return s("svg", { viewBox: `0 0 ${W} ${H}`, class: "x-number-line", "aria-hidden": "true", preserveAspectRatio: "none" },
      s("path", { d: cloud, class: "x-cloud" }),
      s("line", { x1: 0, x2: W, y1: 18, y2: 18, class: "x-base" }),
      low < 0 && high > 0 ? s("line", { x1: px(0), x2: px(0), y1: 14, y2: 22, class: "x-base" }) : null,
      bounds.map(([a, b], i) => (number(a) && number(b) ? s("rect", { x: px(a), width: Math.max(1, px(b) - px(a)), y: 7, height: 7, rx: 3, style: { fill: role(of[i][1]) }, class: "x-band" }) : null)),
      own.map((v, i) => [v, of[i][1]]).reverse().map(([v, name]) => s("rect", { x: px(v) - 2, width: 4, y: 2, height: 17, rx: 2, style: { fill: role(name) } })));
  }

  /* 16 bits a rate, 4 bits a count: see report/explore.py. */
  function unpack(clip, [top, most, text]) {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    const many = clip.traces.length + (clip.error ? 1 : 0), traces = [];
    for (let k = 0; k < many; k++) {
      const own = new Float64Array(clip.bins);
      for (let t = 0; t < clip.bins; t++) {
        const at = 2 * (k * clip.bins + t), value = bytes[at] | (bytes[at + 1] << 8);
        own[t] = value === 65535 ? NaN : value / 65534 * top;
      }
      traces.push(own);
    }
    const start = 2 * many * clip.bins, counts = [];
    for (let r = 0; r < clip.repeats; r++) {
      const own = new Float64Array(clip.bins);
      for (let t = 0; t < clip.bins; t++) {
        const i = r * clip.bins + t, byte = bytes[start + (i >> 1)];
        own[t] = (i & 1 ? byte >> 4 : byte & 15) * most / 15;
      }
      counts.push(own);
    }
    return { traces: traces.slice(0, clip.traces.length), error: clip.error ? traces[many - 1] : null, counts, most };
  }

  function drawSeries({ panel, own, group }) {
    const clip = panel.clips[group], packed = panel.data[own];
    if (!clip) return null;
    if (!packed) return h("p", { class: "x-note" }, "This page holds the rates of other units alone, so that it stays small; responses.npz has all.");
    const { traces, error, counts, most } = unpack(clip, packed), bins = clip.bins;
    const W = 660, L = 42, R = 8, rowHeight = Math.max(2.5, Math.min(7, 110 / Math.max(1, clip.repeats)));
    const raster = clip.repeats * rowHeight, T = raster ? 6 + raster + 10 : 8, plot = 150, H = T + plot + 34;
    let from = 0, to = bins; // what is seen, bins
    const peak = Math.max(...traces.map((trace) => trace.reduce((m, v) => (v > m ? v : m), 0)), 1e-9) * 1.06;
    const py = (v) => T + plot * (1 - v / peak), time = (bin) => bin * clip.bin_s;
    const inside = s("g"), axis = s("g", { class: "x-axes" }), cursor = s("line", { class: "x-cursor", y1: 6, y2: T + plot, visibility: "hidden" });
    const brush = s("rect", { class: "x-brush", y: 4, height: T + plot - 4, visibility: "hidden" }), id = `x-clip-${Math.random().toString(36).slice(2)}`;
    const svg = s("svg", { viewBox: `0 0 ${W} ${H}`, class: "x-time", tabindex: "0", role: "application", "aria-label": "rates over time; plus and minus zoom, arrow keys move, 0 shows the whole" },
      s("defs", {}, s("clipPath", { id }, s("rect", { x: L, y: 0, width: W - L - R, height: H }))), axis, s("g", { "clip-path": `url(#${id})` }, inside, brush, cursor));
    const say = h("p", { class: "x-say" });
    const px = (bin) => L + (W - L - R) * (bin - from) / (to - from);
    const some = clip.repeats ? `the first ${clip.repeats} repeats are drawn` : "repeats are left out, so that this page stays small";
    const whole = `${clip.about}${clip.repeats < clip.of ? `; ${some}` : ""}`;
    function path(values, step) {
      let d = "", pen = false;
      for (let t = Math.max(0, Math.floor(from) - 1); t < Math.min(bins, Math.ceil(to) + 1); t++) {
        if (Number.isNaN(values[t])) { pen = false; continue; }
        d += `${pen ? "L" : "M"}${px(t + 0.5).toFixed(1)} ${py(values[t]).toFixed(1)}`; pen = true;
      }
      return d;
    }
    function band() {
      const up = [], down = [];
      for (let t = Math.max(0, Math.floor(from) - 1); t < Math.min(bins, Math.ceil(to) + 1); t++) {
        if (Number.isNaN(traces[0][t]) || Number.isNaN(error[t])) continue;
        up.push(`${px(t + 0.5).toFixed(1)} ${py(traces[0][t] + error[t]).toFixed(1)}`);
        down.unshift(`${px(t + 0.5).toFixed(1)} ${py(Math.max(0, traces[0][t] - error[t])).toFixed(1)}`);
      }
      return up.length ? `M${[...up, ...down].join("L")}Z` : "";
    }
    function spikes() {
      const levels = new Map();
      counts.forEach((trial, r) => {
        const y = 6 + r * rowHeight;
        trial.forEach((count, t) => {
          if (count <= 0 || t + 1 < from || t > to) return;
          const level = Math.max(1, Math.ceil(5 * Math.min(1, count / Math.max(most === 15 ? Math.min(busiest, 5) : most, 1e-9))));
          const left = px(t), width = Math.max(0.9, px(t + 1) - left);
          levels.set(level, `${levels.get(level) || ""}M${left.toFixed(1)} ${y.toFixed(1)}h${width.toFixed(1)}v${(rowHeight - 0.8).toFixed(1)}h-${width.toFixed(1)}z`);
        });
      });
      return [...levels].map(([level, d]) => s("path", { d, class: "x-spikes", style: { opacity: 0.25 + 0.15 * level } }));
    }
    const busiest = counts.reduce((m, trial) => trial.reduce((n, v) => Math.max(n, v), m), 1);
    function redraw() {
      inside.replaceChildren(...[
        ...spikes(),
        error ? s("path", { d: band(), class: "x-band", style: { fill: role(clip.traces[0][1]) } }) : null,
        ...traces.map((trace, k) => s("path", { d: path(trace), class: k ? "x-trace" : "x-trace x-thin", style: { stroke: role(clip.traces[k][1]) } })),
      ].filter(Boolean));
      axis.replaceChildren(
        ...ticks(time(from), time(to), 8).map((v) => s("g", {}, s("line", { x1: px(v / clip.bin_s), x2: px(v / clip.bin_s), y1: T + plot, y2: T + plot + 4 }), s("text", { x: px(v / clip.bin_s), y: T + plot + 16, "text-anchor": "middle" }, shown(v)))),
        ...ticks(0, peak, 4).map((v) => s("g", {}, s("line", { x1: L - 4, x2: L, y1: py(v), y2: py(v) }), s("text", { x: L - 7, y: py(v) + 4, "text-anchor": "end" }, shown(v)))),
        s("path", { d: `M${L} ${T}V${T + plot}H${W - R}` }),
        s("text", { class: "x-title", x: (L + W - R) / 2, y: H - 2, "text-anchor": "middle" }, "time (s)"),
        s("text", { class: "x-title", transform: `translate(11 ${T + plot / 2}) rotate(-90)`, "text-anchor": "middle" }, "rate (Hz)"));
      svg.dataset.from = time(from).toFixed(4); svg.dataset.to = time(to).toFixed(4);
      reset.hidden = from === 0 && to === bins;
    }
    function look(a, b) {
      const width = clamp(b - a, Math.min(bins, 8), bins);
      from = clamp(a, 0, bins - width); to = from + width;
      redraw();
    }
    const zoom = (factor, middle = (from + to) / 2) => look(middle - (middle - from) * factor, middle + (to - middle) * factor);
    const binAt = (event) => clamp(from + (to - from) * (local(svg, event).x - L) / (W - L - R), 0, bins);
    let down = null;
    svg.addEventListener("pointerdown", (event) => { down = binAt(event); svg.setPointerCapture(event.pointerId); });
    svg.addEventListener("pointermove", (event) => {
      const bin = binAt(event), t = clamp(Math.floor(bin), 0, bins - 1);
      cursor.setAttribute("visibility", "visible"); cursor.setAttribute("x1", px(bin)); cursor.setAttribute("x2", px(bin));
      say.textContent = `${time(t + 0.5).toFixed(3)} s: ${clip.traces.map(([name], k) => `${name} ${shown(traces[k][t])}`).join(", ")} Hz`;
      if (down === null) return;
      brush.setAttribute("visibility", "visible"); brush.setAttribute("x", px(Math.min(down, bin))); brush.setAttribute("width", Math.abs(px(bin) - px(down)));
    });
    svg.addEventListener("pointerup", (event) => {
      const bin = binAt(event);
      brush.setAttribute("visibility", "hidden");
      if (down !== null && Math.abs(px(bin) - px(down)) > 6) look(Math.min(down, bin), Math.max(down, bin));
      down = null;
    });
    svg.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); say.textContent = whole; });
    svg.addEventListener("dblclick", () => look(0, bins));
    svg.addEventListener("keydown", (event) => {
      const width = to - from;
      const act = {
        "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), "0": () => look(0, bins), Escape: () => look(0, bins),
        ArrowLeft: () => look(from - width / 4, to - width / 4), ArrowRight: () => look(from + width / 4, to + width / 4),
      }[event.key];
      if (act) { event.preventDefault(); act(); }
    });
    const reset = h("button", { type: "button", class: "x-chip", hidden: true, onclick: () => { look(0, bins); svg.focus(); } }, "the whole");
    redraw();
    say.textContent = whole;
    return h("div", {}, legend(clip.traces.map(([name, of], k) => [name + (k === 0 && error ? " ± standard error" : ""), of])), svg,
      h("div", { class: "x-under" }, say, reset, h("small", { class: "x-hint" }, "drag to zoom, double-click for the whole; keys + − ← → 0")));
  }

  function drawPlace({ panel, own, group }) {
    const frame = panel.frames[group], [x, y, along, across, angle] = panel.windows[own];
    if (!frame || !number(x) || !number(y)) return null;
    const [height, width] = frame.size, unit = Math.max(width, height) / 100;
    return h("div", {}, s("svg", { viewBox: `-0.5 -0.5 ${width} ${height}`, class: "x-frame", role: "img", "aria-label": `at ${shown(x)}, ${shown(y)} px` },
      s("image", { href: frame.png, x: -0.5, y: -0.5, width, height, preserveAspectRatio: "none" }),
      number(along) && number(across) ? [2, 1].map((sd) => s("ellipse", { cx: x, cy: y, rx: sd * along, ry: sd * across, transform: `rotate(${angle || 0} ${x} ${y})`, "stroke-width": unit / sd, class: "x-field" })) : null,
      s("circle", { cx: x, cy: y, r: 1.1 * unit, class: "x-center" })),
    h("p", { class: "x-say" }, `center ${shown(Number(x.toFixed(1)))}, ${shown(Number(y.toFixed(1)))} px`, number(along) && number(across) ? `; ${shown(Number(along.toPrecision(2)))} × ${shown(Number(across.toPrecision(2)))} px (1 and 2 standard deviations)` : ""));
  }

  function drawCurves({ panel, own }) {
    const values = panel.values[own], points = panel.x.map((x, i) => [x, values[i]]).filter(([, v]) => number(v));
    if (points.length < 2) return null;
    const W = 260, H = 150, L = 38, R = 8, T = 8, B = 34, scale = panel.logarithmic ? Math.log : (v) => v;
    const xs = points.map(([x]) => scale(x)), ys = points.map(([, v]) => v), x0 = Math.min(...xs), x1 = Math.max(...xs), y0 = Math.min(0, ...ys), y1 = Math.max(...ys, y0 + 1e-9);
    const px = (v) => L + (W - L - R) * (scale(v) - x0) / (x1 - x0 || 1), py = (v) => H - B - (H - T - B) * (v - y0) / (y1 - y0);
    const marks = panel.logarithmic || points.length <= 5 ? points.map(([x]) => x).filter((_, i, all) => i % Math.ceil(all.length / 5) === 0) : ticks(x0, x1, 4);
    return s("svg", { viewBox: `0 0 ${W} ${H}`, class: "x-curve", role: "img", "aria-label": `${panel.y_title} by ${panel.x_title}` },
      s("g", { class: "x-axes" },
        marks.map((v) => s("g", {}, s("line", { x1: px(v), x2: px(v), y1: H - B, y2: H - B + 3 }), s("text", { x: px(v), y: H - B + 14, "text-anchor": "middle" }, shown(v)))),
        ticks(y0, y1, 3).map((v) => s("g", {}, s("line", { x1: L - 3, x2: L, y1: py(v), y2: py(v) }), s("text", { x: L - 6, y: py(v) + 4, "text-anchor": "end" }, shown(v)))),
        s("path", { d: `M${L} ${T}V${H - B}H${W - R}` })),
      s("path", { class: "x-trace", style: { stroke: "var(--twin)" }, d: points.map(([x, v], i) => `${i ? "L" : "M"}${px(x).toFixed(1)} ${py(v).toFixed(1)}`).join("") }),
      points.map(([x, v]) => s("circle", { cx: px(x), cy: py(v), r: 2.4, style: { fill: "var(--twin)" } }, s("title", {}, `${shown(x)}: ${shown(v)}`))),
      s("text", { class: "x-title", x: (L + W - R) / 2, y: H - 4, "text-anchor": "middle" }, panel.x_title),
      s("text", { class: "x-title", transform: `translate(9 ${(T + H - B) / 2}) rotate(-90)`, "text-anchor": "middle" }, panel.y_title));
  }

  function drawImages({ panel, own }) {
    const png = panel.pngs[own];
    if (png === "") return h("p", { class: "x-note" }, "This page holds the pictures of other units alone, so that it stays small; the task's files have all.");
    return png ? h("div", {}, h("img", { src: png, alt: panel.title, class: "x-map" })) : null;
  }

  const DRAW = { scores: drawScores, series: drawSeries, place: drawPlace, curves: drawCurves, images: drawImages };

  // --- the page -----------------------------------------------------------------------------------------------------
  const found = new Map();
  for (const block of document.querySelectorAll("script.explore")) {
    try {
      const content = JSON.parse(block.textContent);
      if (!found.has(content.key)) found.set(content.key, { block, contents: [] });
      found.get(content.key).contents.push(content);
    } catch (error) { console.error("a part of this page is damaged", error); }
  }
  for (const { block, contents } of found.values()) {
    const host = h("div");
    try {
      new Explorer(new Data(contents), host);
      block.after(host);
      host.dispatchEvent(new Event("ready"));
      window.dispatchEvent(new Event("resize")); // rows are filled once their height is known
      for (const place of document.querySelectorAll("nav[data-page]")) {
        place.prepend(h("a", { href: `#${host.firstChild.id}` }, contents[0].title), " ");
      }
    } catch (error) { console.error(error); }
  }
})();
