//! Runs on a device other than the CPU, held against the CPU: the device that `COCONUT_TEST_DEVICE` names, in builds that
//! have one. And what the program says of devices, in every build.

use assert_cmd::assert::OutputAssertExt;
use serde_json::Value;

use crate::program::{Place, coconut, refused, stdout, train};

/// What `coconut devices` lists.
fn listed() -> Vec<Value> {
    let output = stdout(&coconut(["devices", "--json"]).assert().success());
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_cpu_is_listed_and_what_this_build_lacks_is_refused() {
    let devices = listed();
    assert_eq!((&devices[0]["device"], &devices[0]["problem"]), (&"cpu".into(), &Value::Null));
    let table = stdout(&coconut(["devices"]).assert().success());
    assert!(table.contains("cpu") && table.contains("ready"), "{table}");

    // No build has both of them.
    let lacking = if cfg!(target_os = "macos") { "cuda" } else { "metal" };
    let place = Place::new();
    let recipe = place.recipe(&[]);
    refused(train(&recipe, &["--device", lacking]), &["`device`", lacking, "this build has cpu"]);
    let mut generate = coconut(["generate", "--device", lacking, "--prompt", "1+1"]);
    generate.arg(crate::fixture("torch/gpt2"));
    refused(generate, &["--device", lacking, "this build has cpu"]);
    refused(train(&recipe, &["-s", "device=tpu"]), &["`device`", "`tpu` is no device"]);
    refused(train(&recipe, &["-s", "device=wgpu:one"]), &["`device`", "wgpu:one"]);
    let key = place.recipe(&[("device", "gpu"), ("bf16", "True")]);
    refused(train(&key, &[]), &["`bf16`", "`device: cpu`"]);
    assert!(!place.run().exists(), "nothing was begun");
}

#[cfg(feature = "wgpu")]
mod of_a_gpu {
    use std::fs;

    use coconut::{
        checkpoint::Checkpoint,
        device,
        model::{ModelConfig, Transformer},
    };

    use super::*;
    use crate::{cli::losses, program::back_to};

    fn tested() -> String {
        std::env::var("COCONUT_TEST_DEVICE").unwrap_or_else(|_| "wgpu".into())
    }

    /// Holds a run's losses on the tested device against those on the CPU.
    fn same_losses(place: &Place, recipe: &[(&str, &str)]) {
        let recipe = place.recipe(recipe);
        train(&recipe, &["-s", "name=host"]).assert().success();
        train(&recipe, &["-s", "name=device", "--device", &tested()]).assert().success();
        let [host, device] = ["host", "device"].map(|run| losses(&place.path("runs").join(run)));
        assert_eq!((host.len(), device.len()), (50, 50));
        for ((step, host), (_, device)) in host.iter().zip(&device) {
            let off = (device / host - 1.0).abs();
            assert!(off < 1e-4, "step {step}: {device}, on the CPU {host}");
        }
    }

    #[test]
    fn it_is_listed_as_ready() {
        let devices = listed();
        let ready = |device: &&Value| device["problem"] == Value::Null;
        assert!(devices.iter().skip(1).any(|device| ready(&device)), "{devices:?}");
        let missing = format!("{}:99", tested());
        let place = Place::new();
        refused(train(&place.recipe(&[]), &["--device", &missing]), &[&missing, "coconut devices"]);
    }

    #[test]
    fn fifty_steps_through_all_stages_have_the_cpus_losses() {
        same_losses(&Place::new(), &[("replacement_method", "norm(hs[-1])"), ("grad_clip", "1.0")]);
    }

    #[test]
    fn fifty_steps_of_adapters_on_a_llama_have_the_cpus_losses() {
        let place = Place::new();
        train(&place.recipe(&[("num_epochs", "1")]), &[]).assert().success();
        let first = place.run().join("checkpoints/latest");
        let tokenizer = Checkpoint::load(&first, &device::cpu()).unwrap().tokenizer;
        let mut shape = ModelConfig::load(&crate::fixture("torch/families/llama")).unwrap();
        shape.vocab_size = tokenizer.vocab_size();
        let base = place.path("llama");
        fs::create_dir(&base).unwrap();
        Transformer::random(shape, 1, &device::cpu()).save(&base).unwrap();
        tokenizer.save(&base).unwrap();
        let adapters = [("lora_rank", "4"), ("lora_target_modules", "all-linear"), ("lr", "1e-3")];
        let base = [("load_model_path", base.to_str().unwrap())];
        same_losses(&place, &[&adapters[..], &base].concat());
    }

    /// Begun on the CPU and ended on the device, a run has the losses of the CPU.
    #[test]
    fn a_run_goes_on_on_another_device() {
        let place = Place::new();
        let recipe = place.recipe(&[("keep_checkpoints", "0")]);
        train(&recipe, &["-s", "name=whole"]).assert().success();
        train(&recipe, &[]).assert().success();
        back_to(&place.run(), &["-1-0", "0-1"]);
        train(&recipe, &["--resume", "--device", &tested()]).assert().success();
        let [whole, resumed] = ["whole", "r"].map(|run| losses(&place.path("runs").join(run)));
        assert_eq!((whole.len(), resumed.len()), (50, 50));
        for ((step, whole), (_, resumed)) in whole.iter().zip(&resumed) {
            let off = (resumed / whole - 1.0).abs();
            assert!(off < 1e-4, "step {step}: {resumed}, on the CPU alone {whole}");
            assert!(*step > 20 || off == 0.0, "step {step} was on the CPU");
        }
        assert_ne!(whole, resumed, "nothing was computed on the device");
    }
}
