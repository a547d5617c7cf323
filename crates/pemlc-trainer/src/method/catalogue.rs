//! What there is to choose from.

use crate::config::MethodName;

/// A method in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Name in run files.
    pub method: MethodName,
    /// One line.
    pub summary: &'static str,
    /// arXiv number of the paper.
    pub paper: &'static str,
    /// What is left of it in the exported graph.
    pub exported: &'static str,
    /// Trained numbers: by adapted projection for low-rank methods, by layer or once for prompts. r rank, T tasks, L rows, M layers, D model width,
    /// k width of a layer's keys.
    pub parameters: &'static str,
}

/// Every method, in the order of [`MethodName::ALL`].
pub fn catalogue() -> Vec<Entry> {
    MethodName::ALL.into_iter().map(entry).collect()
}

const MERGED: &str = "one merged weight";
const PRIVATE: &str = "a low-rank delta a task";
const BOTH: &str = "merged, and a delta a task (lora.sharing)";
const ROWS: &str = "prefix rows";

fn entry(method: MethodName) -> Entry {
    let (summary, paper, exported, parameters) = match method {
        MethodName::Peml => (
            "LoRA, and prefix rows from an encoder whose operations are searched",
            "-",
            "as lora, and prefix rows",
            "r (in + out); the encoder",
        ),
        MethodName::Lora => ("low-rank deltas", "2106.09685", BOTH, "r (in + out)"),
        MethodName::RsLora => ("LoRA scaled by alpha / sqrt(r)", "2312.03732", BOTH, "r (in + out)"),
        MethodName::Dora => (
            "LoRA for the directions of a weight's rows, and their lengths",
            "2402.09353",
            MERGED,
            "r (in + out) + out",
        ),
        MethodName::AdaLora => {
            ("a rank that moves to where it matters", "2303.10512", MERGED, "r (in + out + 1), r initial")
        }
        MethodName::MtlLora => (
            "shared factors, a matrix between them and a mixture for each task",
            "2410.09437",
            PRIVATE,
            "r in + n r out + T r^2 + T n",
        ),
        MethodName::MultiLora => {
            ("parallel deltas with learned output scales", "2311.11501", MERGED, "n (r in + r out + out)")
        }
        MethodName::MoeLora => {
            ("experts weighed by a gate on the task", "2310.18339", PRIVATE, "r (in + out) + e (T + n)")
        }
        MethodName::MixLora => (
            "experts chosen for each token by a router",
            "2404.15159",
            "not exported: the weight depends on the token",
            "n r (in + out), r (in + out) on attention; n D a layer",
        ),
        MethodName::Poly => (
            "skills whose factors are mixed by task (MHR: several splits)",
            "2202.13914",
            PRIVATE,
            "S r (in + out) + T q S",
        ),
        MethodName::CPoly => (
            "common skills, and skills of each task's own that may be lent",
            "2312.03248",
            PRIVATE,
            "(C + T O) r (in + out) + T C + T^2 O",
        ),
        MethodName::Prefix => ("key and value rows, learned directly", "2101.00190", ROWS, "2 L k a layer"),
        MethodName::LoraPrefix => {
            ("LoRA, and rows learned directly", "-", "as lora, and prefix rows", "the sum of both")
        }
        MethodName::PrefixMlp => ("rows through an MLP", "2101.00190", ROWS, "L w + (w + 1) h + (h + 1) 2 M k"),
        MethodName::LoraPrefixMlp => {
            ("LoRA, and rows through an MLP", "-", "as lora, and prefix rows", "the sum of both")
        }
        MethodName::Prompt => ("a soft prompt", "2104.08691", "prefix rows (folded)", "L D"),
        MethodName::LoraPrompt => {
            ("LoRA, and a soft prompt", "-", "as lora, and prefix rows (folded)", "the sum of both")
        }
        MethodName::PTuning => {
            ("a soft prompt through an MLP or an LSTM", "2103.10385", "prefix rows (folded)", "L D + the encoder")
        }
        MethodName::Mpt => (
            "one soft prompt, and a low-rank factor for each task",
            "2303.02861",
            "prefix rows (folded)",
            "L D + T q (L + D)",
        ),
    };
    Entry { method, summary, paper, exported, parameters }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_and_comes_once() {
        let names: Vec<&str> = MethodName::ALL.into_iter().map(MethodName::name).collect();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name}");
            let read: MethodName = serde_json::from_value((*name).into()).expect("a name that run files know");
            assert_eq!(read.name(), *name);
        }
    }
}
