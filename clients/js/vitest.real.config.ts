import { defineConfig } from "vitest/config";

export default defineConfig({
  esbuild: { target: "es2022" }, // `await using` is compiled, as for Node 18
  test: { include: ["test/real/**/*.test.ts"], testTimeout: 300_000, hookTimeout: 300_000 },
});
