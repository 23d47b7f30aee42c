//! The chapters of the guide as documentation, so that their Rust blocks are compiled, and run where they say nothing else.

macro_rules! chapters {
    ($($name:ident: $file:literal;)*) => {$(
        #[doc = include_str!(concat!("../../guide/src/", $file))]
        pub struct $name;
    )*};
}

chapters! {
    Service: "service.md";
    Device: "device.md";
    Serving: "serving.md";
    Production: "production.md";
    Errors: "errors.md";
    Kernel: "kernel.md";
    Tuning: "tuning.md";
    Tiles: "tiles.md";
    Requests: "requests.md";
    Pipeline: "pipeline.md";
}
