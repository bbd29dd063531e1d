/** The frame around every page: where one can go, whether the coordinator answers, and keys. */

import { useEffect, useRef, useState } from "preact/hooks";
import { lazy } from "./lazy";
import { useOverview } from "./overview";
import { JobPage } from "./job/page";
import { JobsPage } from "./pages/jobs";
import { OverviewPage } from "./pages/overview";
import { PipelinePage } from "./pages/pipeline";
import { WorkersPage } from "./pages/workers";
import { go, Link, usePlace, type Place } from "./router";
import { LoginPage, Me } from "./pages/login";
import { Dialog } from "./ui/dialog";
import { Empty } from "./ui/parts";
import { isStranger, useWho } from "./who";

const SubmitPage = lazy(() => import("./pages/submit").then((part) => part.SubmitPage));
const ComparePage = lazy(() => import("./pages/compare").then((part) => part.ComparePage));
const ReportsPage = lazy(() => import("./pages/reports").then((part) => part.ReportsPage));
const ArtifactsPage = lazy(() => import("./pages/artifacts").then((part) => part.ArtifactsPage));
const DataPage = lazy(() => import("./pages/data").then((part) => part.DataPage));
const AdminPage = lazy(() => import("./pages/admin").then((part) => part.AdminPage));
const AboutPage = lazy(() => import("./pages/about").then((part) => part.AboutPage));

const PLACES = [
  { name: "Overview", path: "", key: "o" },
  { name: "Jobs", path: "jobs", key: "j" },
  { name: "Workers", path: "workers", key: "w" },
  { name: "Reports", path: "reports", key: "r" },
  { name: "Compare", path: "compare", key: "c" },
  { name: "Data", path: "data", key: "d" },
  { name: "Artifacts", path: "artifacts", key: "a" },
  { name: "Admin", path: "admin", key: "m" },
] as const;

export function App() {
  const place = usePlace();
  const [help, setHelp] = useState(false);
  useKeys(() => setHelp(true));
  const section = place.parts[0] ?? "";
  const main = useRef<HTMLElement>(null);
  const path = place.parts.join("/");
  useTitle(place);
  useMoved(path, main);
  const { identity } = useWho();
  const stranger = isStranger(identity);
  return (
    <>
      <a class="skip" href="#main">
        Skip to the page
      </a>
      <header class="top">
        <Link to="/" class="brand" aria-label="Marquee: overview">
          <Sign />
          <span>Marquee</span>
        </Link>
        <nav aria-label="Pages">
          {PLACES.map(({ name, path }) => (
            <Link
              key={name}
              to={`/${path}`}
              aria-current={section === path || (path === "jobs" && section === "pipelines") ? "page" : undefined}
            >
              {name}
            </Link>
          ))}
        </nav>
        <Connection />
        <Link to="/submit" class="button primary">
          Submit
        </Link>
      </header>
      {stranger ? null : <Broken />}
      <main id="main" ref={main} tabIndex={-1}>
        {stranger ? <LoginPage /> : <Page place={place} />}
      </main>
      <footer class="foot">
        <Version />
        <Me />
        <button type="button" class="plain" onClick={() => setHelp(true)}>
          Keys <kbd>?</kbd>
        </button>
      </footer>
      {help ? <Keys onClose={() => setHelp(false)} /> : null}
    </>
  );
}

function Page({ place }: { place: Place }) {
  const [section = "", id = "", part = ""] = place.parts;
  const number = /^\d{1,18}$/.test(id) ? BigInt(id) : undefined;
  switch (section) {
    case "":
      return <OverviewPage />;
    case "jobs":
      if (id === "") return <JobsPage query={place.query} />;
      if (number !== undefined) return <JobPage key={id} id={number} part={part} query={place.query} />;
      break;
    case "pipelines":
      if (number !== undefined) return <PipelinePage key={id} id={number} />;
      break;
    case "workers":
      return <WorkersPage name={id} />;
    case "submit":
      return <SubmitPage />;
    case "compare":
      return <ComparePage query={place.query} />;
    case "reports":
      return <ReportsPage id={number} />;
    case "artifacts":
      return <ArtifactsPage digest={id} />;
    case "data":
      if (id === "" || number !== undefined) return <DataPage key={id} id={number} />;
      break;
    case "admin":
      return <AdminPage part={id} name={part} query={place.query} />;
    case "about":
      return <AboutPage />;
  }
  return (
    <Empty title="There is no such page">
      <h1 class="sr">No such page</h1>
      <p>
        <Link to="/jobs">All jobs</Link> or <Link to="/">the overview</Link> may have what you look for.
      </p>
    </Empty>
  );
}

/** The sign: a bulb for each thing that lives. */
function Sign() {
  return (
    <svg viewBox="0 0 32 24" width="30" height="22" aria-hidden="true">
      <rect x="0" y="0" width="32" height="24" rx="5" class="sign-board" />
      <g class="sign-bulbs">
        {[6, 12.7, 19.3, 26].flatMap((x) => [4.6, 19.4].map((y) => <circle key={`${x}-${y}`} cx={x} cy={y} r="1.9" />))}
      </g>
      <rect x="5" y="10.6" width="22" height="2.8" rx="1.4" class="sign-line" />
    </svg>
  );
}

function Connection() {
  const { health: heard } = useOverview();
  const { identity } = useWho();
  // It answers, and asks who one is.
  const health = isStranger(identity) ? "ended" : heard;
  const words = isStranger(identity)
    ? "not logged in"
    : health === "live"
      ? "live"
      : health === "starting"
        ? "connecting"
        : "not connected";
  return (
    <span class={`connection connection-${health}`} role="status">
      <i aria-hidden="true" />
      {words}
    </span>
  );
}

function Broken() {
  const { health, trouble, overview } = useOverview();
  // Whoever is not logged in any more is asked to do so.
  if (health === "broken" && trouble?.code !== "MQ0370")
    return (
      <div class="banner banner-bad" role="alert">
        <strong>The coordinator does not answer.</strong> What you see is how it was; this page goes on by itself when
        it is back. {trouble && !trouble.passes ? trouble.text : ""}
      </div>
    );
  if (overview?.safeMode)
    return (
      <div class="banner" role="alert">
        <strong>Safe mode.</strong> {overview.safeMode}
      </div>
    );
  if (overview?.standsBy)
    return (
      <div class="banner" role="alert">
        <strong>This coordinator stands by.</strong> Queue, devices and workers are known to the one that leads
        {overview.leader === "" ? ", which is not known now" : ": "}
        <Leader address={overview.leader} />; changes are made there.
      </div>
    );
  return null;
}

/** The same place at the coordinator that leads. */
function Leader({ address }: { address: string }) {
  const { parts, query } = usePlace();
  if (!/^https?:\/\//.test(address)) return <>{address}</>;
  const path = parts.map(encodeURIComponent).join("/");
  return <a href={`${address.replace(/\/$/, "")}/${path}${query.size > 0 ? `?${query.toString()}` : ""}`}>{address}</a>;
}

function Version() {
  const { overview } = useOverview();
  return <Link to="/about">Marquee {overview?.version ?? ""}</Link>;
}

const NAMES: Record<string, string> = { "": "Overview", pipelines: "Pipeline" };

function useTitle(place: Place): void {
  const [section = "", id = ""] = place.parts;
  const name = NAMES[section] ?? section.charAt(0).toUpperCase() + section.slice(1);
  const title = id === "" ? name : `${name.replace(/s$/, "")} ${id}`;
  useEffect(() => {
    document.title = `${title} · Marquee`;
  }, [title]);
}

/** After a move within the page whoever listens to it hears where he is. */
function useMoved(path: string, main: { current: HTMLElement | null }): void {
  const before = useRef(path);
  useEffect(() => {
    if (before.current === path) return;
    const [section, id] = [path.split("/").slice(0, 2).join("/"), before.current.split("/").slice(0, 2).join("/")];
    before.current = path;
    if (section !== id) main.current?.focus({ preventScroll: true });
  }, [path, main]);
}

const isTyping = (target: EventTarget | null) =>
  target instanceof HTMLElement && target.matches("input, textarea, select, [contenteditable]");

function useKeys(help: () => void): void {
  useEffect(() => {
    let waits = 0;
    const press = (event: KeyboardEvent) => {
      if (event.metaKey || event.ctrlKey || event.altKey || isTyping(event.target)) return;
      if (document.querySelector("dialog[open]")) return;
      const follows = Date.now() - waits < 1500;
      waits = 0;
      const place = PLACES.find(({ key }) => key === event.key);
      if (follows && place) go(`/${place.path}`);
      else if (follows && event.key === "s") go("/submit");
      else if (event.key === "g") waits = Date.now();
      else if (event.key === "?") help();
      else if (event.key === "/") {
        const search = document.querySelector<HTMLInputElement>("input[type=search]");
        if (!search) return;
        event.preventDefault();
        search.focus();
      } else if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
    };
    window.addEventListener("keydown", press);
    return () => window.removeEventListener("keydown", press);
  }, [help]);
}

/** The next or the previous job of the listing gets the focus. */
function step(by: number): void {
  const links = [...document.querySelectorAll<HTMLElement>("main .job-link")];
  const now = links.findIndex((link) => link === document.activeElement);
  links[Math.min(Math.max(now + by, 0), links.length - 1)]?.focus();
}

function Keys({ onClose }: { onClose: () => void }) {
  const rows: [string, string][] = [
    ...PLACES.map(({ name, key }): [string, string] => [`g ${key}`, name]),
    ["g s", "Submit"],
    ["/", "Search"],
    ["j, k", "Next and previous job"],
    ["Esc", "Close"],
  ];
  return (
    <Dialog title="Keys" onClose={onClose}>
      <table class="keys">
        <tbody>
          {rows.map(([keys, what]) => (
            <tr key={keys}>
              <th scope="row">
                {keys.split(" ").map((key) => (
                  <kbd key={key}>{key}</kbd>
                ))}
              </th>
              <td>{what}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <div class="dialog-actions">
        <button type="button" onClick={onClose}>
          Close
        </button>
      </div>
    </Dialog>
  );
}
