import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { defineConfig, type Plugin } from "vite";

/** Bytes of JavaScript, packed, that the first view may need. */
const FIRST_VIEW_MAX_BYTES = 150_000;

/** Packs each file beside itself, for the coordinator to serve, and refuses a first view that has grown too large. */
function packed(): Plugin {
  let out = "";
  return {
    name: "packed",
    apply: "build",
    configResolved: (config) => {
      out = join(config.root, config.build.outDir);
    },
    closeBundle: () => {
      const first = new Set<string>();
      const html = readFileSync(join(out, "index.html"), "utf8");
      for (const [, path] of html.matchAll(/(?:src|href)="\/(assets\/[^"]+\.js)"/g)) first.add(path ?? "");
      let bytes = 0;
      for (const entry of readdirSync(out, { recursive: true, withFileTypes: true })) {
        const file = join(entry.parentPath, entry.name);
        if (!entry.isFile() || /\.(gz|woff2)$/.test(file)) continue;
        const small = gzipSync(readFileSync(file), { level: 9 });
        writeFileSync(`${file}.gz`, small);
        if ([...first].some((path) => file.endsWith(path))) bytes += small.length;
      }
      if (first.size === 0) throw new Error("index.html names no program");
      console.log(`first view: ${(bytes / 1000).toFixed(1)} kB of JavaScript, packed`);
      if (bytes > FIRST_VIEW_MAX_BYTES)
        throw new Error(`the first view needs ${bytes} bytes of JavaScript; at most ${FIRST_VIEW_MAX_BYTES}`);
    },
  };
}

export default defineConfig({
  plugins: [packed()],
  build: {
    outDir: "dist/page",
    emptyOutDir: true,
    // Everything comes from files: the page allows no inline program, and no font inside a style.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
    reportCompressedSize: false,
  },
  server: {
    // For work on the page: `npm run dev` beside a coordinator on its usual port.
    proxy: {
      "/marquee.v1": {
        target: "http://127.0.0.1:7700",
        changeOrigin: true,
        headers: { origin: "http://127.0.0.1:7700" },
      },
      "/reports/": "http://127.0.0.1:7700",
    },
  },
  test: { include: ["test/**/*.test.ts", "test/**/*.test.tsx"] },
} as Parameters<typeof defineConfig>[0]);
