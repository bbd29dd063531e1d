import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["dist", "src/gen", "node_modules"] },
  tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      // Numbers and ids stand in texts everywhere.
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
      // What a job wrote is data: nothing may turn text into markup or program.
      "no-restricted-properties": [
        "error",
        ...["innerHTML", "outerHTML", "insertAdjacentHTML", "srcdoc"].map((property) => ({ property })),
        { object: "document", property: "write" },
      ],
      "no-restricted-syntax": [
        "error",
        { selector: "JSXAttribute[name.name='dangerouslySetInnerHTML']", message: "what a job wrote is data" },
        { selector: "JSXAttribute[name.name='srcdoc']", message: "what a job wrote is data" },
      ],
      "no-eval": "error",
      "no-implied-eval": "error",
      eqeqeq: "error",
    },
  },
  { files: ["*.js"], extends: [tseslint.configs.disableTypeChecked] },
);
