import "@fontsource-variable/geist/index.css";
import "@fontsource-variable/geist-mono/index.css";
import "./style/base.css";
import "./style/page.css";
import "./style/parts.css";
import { render } from "preact";
import { App } from "./app";
import { OverviewKeeper } from "./overview";
import { WhoKeeper } from "./who";

const root = document.querySelector("#app");
if (root) {
  root.replaceChildren();
  render(
    <WhoKeeper>
      <OverviewKeeper>
        <App />
      </OverviewKeeper>
    </WhoKeeper>,
    root,
  );
}
