// One page, one script, one style sheet, under fixed names: the server has them built in. `npm run dev` passes everything else on
// to a gateway at localhost:3000.
export default {
  base: "/dashboard/",
  build: {
    outDir: "dist",
    assetsDir: "",
    assetsInlineLimit: 0,
    modulePreload: false,
    rollupOptions: {
      output: { entryFileNames: "app.js", assetFileNames: "app[extname]" },
    },
  },
  server: {
    proxy: {
      "^/(admin|v1|health|metrics|smart-ai)": "http://localhost:3000",
    },
  },
};
