"use strict";

/* Light, dark, or as the system has it; remembered where the browser lets a file remember anything. */
(() => {
  const THEMES = ["auto", "light", "dark"];
  let theme = "auto";
  try {
    theme = localStorage.getItem("densenet-theme") || theme;
  } catch {
    /* not for files here */
  }
  const show = () => {
    if (!THEMES.includes(theme)) theme = "auto";
    document.documentElement.dataset.theme = theme;
  };
  show();
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const name = button.querySelector("span");
    name.textContent = theme;
    button.hidden = false;
    button.addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      show();
      name.textContent = theme;
      try {
        localStorage.setItem("densenet-theme", theme);
      } catch {
        /* not for files here */
      }
    });
  });
})();
