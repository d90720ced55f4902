import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    exclude: ["test/real/**"], // these need a server: tests/vm/test_js_sdk.py starts one, and then these
    testTimeout: 60_000,
  },
});
