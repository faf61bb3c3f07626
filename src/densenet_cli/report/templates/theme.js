"use strict";

/* Color theme: light, dark, or the system's ("auto"). The choice is stored if the browser allows storage for files. */
(() => {
  const THEMES = ["auto", "light", "dark"];
  const KEY = "densenet-theme";
  let theme = "auto";
  try {
    theme = localStorage.getItem(KEY) || theme;
  } catch {
    /* Storage is not available. */
  }
  if (!THEMES.includes(theme)) theme = "auto";
  const apply = () => { document.documentElement.dataset.theme = theme; };
  apply();
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const name = button.querySelector("span");
    name.textContent = theme;
    button.hidden = false;
    button.addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      apply();
      name.textContent = theme;
      try {
        localStorage.setItem(KEY, theme);
      } catch {
        /* Storage is not available. */
      }
    });
  });
})();
