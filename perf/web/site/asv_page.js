"use strict";
// asv's buttons are links that lead nowhere: the keyboard reaches them here, and presses them.
(function () {
  const buttons = "a[role=button], label.nav-header, th[data-sort], .regression-div a:not([href])";
  function reach(root) {
    for (const each of root.querySelectorAll(buttons)) {
      if (!each.hasAttribute("tabindex")) each.tabIndex = 0;
      if (each.matches("a[role=button]")) each.setAttribute("aria-pressed", each.classList.contains("active"));
    }
  }
  addEventListener("DOMContentLoaded", () => {
    reach(document);
    new MutationObserver(() => reach(document)).observe(document.body, {
      subtree: true, childList: true, attributes: true, attributeFilter: ["class"] });
  });
  // A graph whose place is hidden has no size yet, and flot refuses it: it is drawn once it is seen.
  addEventListener("resize", (event) => {
    if (!document.querySelector("#graph").offsetWidth) event.stopImmediatePropagation();
  });
  const plot = $.plot;
  $.plot = Object.assign(function (place, data, options) {
    if ($(place).width() && $(place).height()) return plot(place, data, options);
    const seen = new ResizeObserver(() => {
      if (!$(place).width() || !$(place).height()) return;
      seen.disconnect();
      plot(place, data, options);
    });
    seen.observe($(place)[0]);
  }, plot);
  // A benchmark has no graph where it was never measured: nothing is asked for in vain.
  $(() => {
    const load = $.asv.load_graph_data;
    const missing = (url) => {
      const name = decodeURIComponent(url.split("/").pop()).replace(/\.json$/, "");
      const places = $.asv.main_json.graphs[name];
      return places && !url.startsWith("graphs/summary/")
        && !places.some((i) => $.asv.graph_to_path(name, $.asv.main_json.graph_param_list[i]) === url);
    };
    $.asv.load_graph_data = (url) => missing(url) ? $.Deferred().reject().promise() : load(url);
  });
  addEventListener("keydown", (event) => {
    if ((event.key === "Enter" || event.key === " ") && event.target.matches(buttons)) {
      event.preventDefault();
      event.target.click();
    }
  });
})();
