"use strict";
// The controls: made of what can be chosen, and shown where it means something.

(function (axis) {
  const { ARRAYS } = axis.layout;
  const { BY_AXES, LEARNING } = axis.norms;
  const { NORMS, groupings, initial, possible } = axis.state;
  const { element } = axis.grids;

  // A choice of one (radio) or several (checkbox): entries are {value, label, checked, disabled, title}.
  function choice(id, type, entries, chosen) {
    const parent = document.getElementById(id);
    const focused = parent.contains(document.activeElement) ? document.activeElement.value : null;
    parent.replaceChildren(
      ...entries.map(({ value, label, checked, disabled = false, title = "" }) => {
        const input = element("input", { type, name: id, value, checked, disabled });
        input.addEventListener("change", () => chosen(input));
        return element("label", { title }, input, element("span", {}, ...[label].flat()));
      }),
    );
    if (focused !== null) parent.querySelector(`input[value="${focused}"]`)?.focus();
  }

  function code(text) {
    return element("code", {}, text);
  }

  // Axes by number and letter, in the order of memory.
  function axes(state, change) {
    const array = ARRAYS[state.array];
    const order = [...array.orders[state.memory]];
    const several = BY_AXES.includes(state.norm);
    document.getElementById("axis-legend").replaceChildren(code(several ? "axis=" : "channel_axis="));
    const entries = order.map((letter, i) => ({
      value: letter,
      label: [code(String(i)), ` ${letter}`],
      title: `${array.names[letter]}s`,
      checked: several ? state.axes.includes(letter) : state.channel === letter,
    }));
    choice("axes", several ? "checkbox" : "radio", entries, (input) => {
      if (!several) return change({ channel: input.value });
      const left = order.filter((letter) => (letter === input.value ? input.checked : state.axes.includes(letter)));
      change({ axes: left.length ? left.join("") : input.value });
    });
    const named = order.map((letter) => `${letter} ${array.names[letter]}s`).join(", ");
    document.getElementById("axes-note").textContent = named;
  }

  function show(state, change) {
    const array = ARRAYS[state.array];
    const of = (object, current, more = () => ({})) =>
      Object.entries(object).map(([value, label]) => ({ value, label, checked: value === current, ...more(value) }));
    const visible = (id, on) => (document.getElementById(id).closest("fieldset").hidden = !on);

    const titles = Object.fromEntries(Object.entries(ARRAYS).map(([name, { title }]) => [name, title]));
    choice("array", "radio", of(titles, state.array), (input) =>
      change({ array: input.value, memory: initial(input.value).memory }),
    );
    const missing = (norm) => ({ disabled: !possible(norm, state.array) });
    choice("norm", "radio", of(NORMS, state.norm, missing), (input) => change({ norm: input.value }));
    document.getElementById("norm-note").hidden = Object.keys(NORMS).every((norm) => possible(norm, state.array));

    const statistics = { layer_norm: "mean, variance", rms_norm: "mean square" };
    choice("centred", "radio", of(statistics, state.norm), (input) => change({ norm: input.value }));
    visible("centred", BY_AXES.includes(state.norm));

    axes(state, change);

    const groups = groupings(state).map((n) => ({ value: n, label: String(n), checked: n === state.groups }));
    choice("groups", "radio", groups, (input) => change({ groups: Number(input.value) }));
    visible("groups", state.norm === "group_norm");

    const modes = { false: "train", true: "eval" };
    choice("evaluating", "radio", of(modes, String(state.evaluating)), (input) =>
      change({ evaluating: input.value === "true" }),
    );
    visible("evaluating", LEARNING.includes(state.norm));

    const names = Object.fromEntries(Object.keys(array.orders).map((name) => [name, `channels ${name}`]));
    choice("memory", "radio", of(names, state.memory), (input) => change({ memory: input.value }));
    visible("memory", Object.keys(names).length > 1);

    document.getElementById("masked").checked = state.masked;
  }

  // Follows the system until the button is pressed; then stays.
  function theme() {
    const button = document.getElementById("theme");
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const root = document.documentElement;
    const now = () => root.dataset.theme ?? (dark.matches ? "dark" : "light");
    const label = () => (button.textContent = now() === "dark" ? "Light" : "Dark");
    button.addEventListener("click", () => {
      root.dataset.theme = now() === "dark" ? "light" : "dark";
      label();
    });
    dark.addEventListener("change", label);
    label();
  }

  axis.controls = { show, theme };
})((globalThis.axis ??= {}));
