//! Functions made with the SDK: `farm:function/handler`.

use farm_proto::job::ResultEncoding;
use farm_proto::outcome::{Failure, FailureKind};
use wasmtime::Store;
use wasmtime::component::{Component, ComponentExportIndex, ComponentType, InstancePre, Lift};

use super::failure::Stop;
use super::state::State;
use super::{check_json, component_linker, failure};

/// Its release is in the name, of which every 0.1 is as good.
const HANDLER: &str = "farm:function/handler@0.1.0";

/// `farm:function/handler.failure`.
#[derive(Debug, ComponentType, Lift)]
#[component(variant)]
enum HandlerFailure {
    #[component(name = "no-such-function")]
    NoSuchFunction(String),
    #[component(name = "bad-arguments")]
    BadArguments(String),
    #[component(name = "returned-error")]
    ReturnedError(String),
}

type CallResult = (Result<Vec<u8>, HandlerFailure>,);

pub(super) struct Sdk {
    instance: InstancePre<State>,
    call: ComponentExportIndex,
    describe: ComponentExportIndex,
}

impl Sdk {
    pub(super) fn new(component: &Component) -> Result<Self, Failure> {
        let instance = component_linker(component)?;
        let export = |name: &str| {
            let handler = component.get_export_index(None, HANDLER)?;
            component.get_export_index(Some(&handler), name)
        };
        match (export("call"), export("describe")) {
            (Some(call), Some(describe)) => Ok(Self { instance, call, describe }),
            _ => Err(Failure::new(FailureKind::BadModule, format!("the component does not export `{HANDLER}`"))),
        }
    }

    pub(super) fn call(
        &self,
        store: &mut Store<State>,
        function: &str,
        argument: &[u8],
        result: &mut Vec<u8>,
    ) -> Result<(), Stop> {
        let instance = self.instance.instantiate(&mut *store)?;
        let call = instance.get_typed_func::<(&str, &[u8]), CallResult>(&mut *store, self.call)?;
        let (answer,) = call.call(&mut *store, (function, argument))?;
        match answer {
            Ok(value) => {
                let spec = &store.data().shared.spec;
                if value.len() as u64 > spec.limits.result {
                    return Err(failure::result_too_large(spec.limits.result).into());
                }
                if spec.result == ResultEncoding::Json {
                    return Ok(check_json(value, result)?);
                }
                super::append(value, result);
                Ok(())
            }
            Err(HandlerFailure::NoSuchFunction(available)) => {
                let message = format!("no function `{function}`; there are: {available}");
                Err(Stop::new(FailureKind::NoSuchFunction, message))
            }
            Err(HandlerFailure::BadArguments(message)) => Err(Stop::new(FailureKind::BadArguments, message)),
            Err(HandlerFailure::ReturnedError(message)) => Err(Stop::new(FailureKind::ReturnedError, message)),
        }
    }

    /// What the module says of its functions.
    pub(super) fn describe(&self, store: &mut Store<State>) -> Result<String, Stop> {
        let instance = self.instance.instantiate(&mut *store)?;
        let describe = instance.get_typed_func::<(), (String,)>(&mut *store, self.describe)?;
        let (text,) = describe.call(&mut *store, ())?;
        Ok(text)
    }
}
