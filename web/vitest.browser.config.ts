import { defineConfig } from "vitest/config";

/** The page in a real browser on a real cluster: `cargo xtask test` says where both are. */
export default defineConfig({
  test: {
    include: ["browser/**/*.test.ts"],
    // One cluster and one browser at a time; a busy machine takes its time.
    fileParallelism: false,
    testTimeout: 240_000,
    hookTimeout: 240_000,
    expect: { poll: { timeout: 60_000, interval: 250 } },
    reporters: ["verbose"],
  },
});
