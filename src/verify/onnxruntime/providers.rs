//! Execution providers by the names that users give them.

use ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};

use crate::verify::runner::{RunnerError, RunnerKind};

/// The provider that every build has.
pub const CPU: &str = "cpu";

/// A provider.
struct Provider {
    /// Name in flags.
    name: &'static str,
    /// Whether the library has it.
    available: fn() -> ort::Result<bool>,
    /// As a session takes it; none for the one that sessions have anyway.
    dispatch: Option<fn() -> ExecutionProviderDispatch>,
}

macro_rules! provider {
    ($name:literal, $type:ident) => {
        Provider {
            name: $name,
            available: || ep::$type::default().is_available(),
            dispatch: Some(|| ep::$type::default().build().error_on_failure()),
        }
    };
}

/// Providers that can run the exported graphs, with their default options.
const PROVIDERS: &[Provider] = &[
    Provider { name: CPU, available: || Ok(true), dispatch: None },
    provider!("cuda", CUDA),
    provider!("tensorrt", TensorRT),
    provider!("directml", DirectML),
    provider!("openvino", OpenVINO),
    provider!("coreml", CoreML),
    provider!("migraphx", MIGraphX),
    provider!("qnn", QNN),
    provider!("webgpu", WebGPU),
    provider!("xnnpack", XNNPACK),
];

/// The provider of this name in the loaded library; `None` for the CPU, which needs no registration.
///
/// # Errors
/// [`RunnerError::Unsupported`] with the names of those that the library has.
pub fn provider(name: &str) -> Result<Option<ExecutionProviderDispatch>, RunnerError> {
    let has = |p: &&Provider| (p.available)().unwrap_or(false);
    let wanted = PROVIDERS.iter().find(|p| p.name == name);
    match wanted {
        Some(p) if has(&p) => Ok(p.dispatch.map(|make| make())),
        _ => {
            let available: Vec<&str> = PROVIDERS.iter().filter(has).map(|p| p.name).collect();
            let known = if wanted.is_some() { "this library does not have" } else { "nobody knows" };
            Err(RunnerError::Unsupported {
                kind: RunnerKind::OnnxRuntime,
                what: format!("on the execution provider {name:?}, which {known}"),
                hint: format!(
                    "available here: {}; others need another build of ONNX Runtime (ORT_DYLIB_PATH)",
                    available.join(", ")
                ),
            })
        }
    }
}
