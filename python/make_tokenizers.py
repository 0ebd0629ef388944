"""Write small tokenizers in the style of each family, and what transformers makes of them.

    venv/bin/python python/make_tokenizers.py [OUT]

OUT (tests/fixtures/tokenizers) gets one folder a family, laid out as the families' folders on the Hub are:

gpt2/        byte-level BPE, one special token, no chat template
qwen/        NFC and a split pattern; eos and pad differ; a template that looks back over the turns;
             generation ends at either of two tokens; the model has more rows than the tokenizer has ids
llama3/      a first token through the post-processor; the template in a file of its own, with a date
smollm2/     single digits; a template with a system prompt of its own

and cases.json beside them: ids of texts with and without special tokens, ids of the three latent markers
as `add_special_tokens` gives them, chats as `apply_chat_template` renders and encodes them. The
vocabularies are trained here on a few sentences; the templates are ours, in the constructs the families use.
"""

import json
import shutil
import sys
from pathlib import Path

import tokenizers
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "tests/fixtures/tokenizers"
MARKERS = ["<|start-latent|>", "<|end-latent|>", "<|latent|>"]
N_MERGES = 60
CORPUS = [
    "Janet has 16 eggs and eats 3. How many are left? <<16-3=13>> ### 13",
    "Every lempus is a yumpus. Tom is a lempus. Is Tom a yumpus or a rompus? ### Tom is a yumpus.",
    "You are a helpful assistant. Answer the question after the mark.",
    "system user assistant <<12*4=48>> <<48/2=24>> ### 24",
]
TEXTS = [
    "Janet has 16 eggs.\n",
    "<<16-3=13>>\n",
    "### 13",
    "Tom's café costs 1,234.5 in 2024 — naïve?\n\n  Two  blanks",
    "cafe\u0301",  # NFC makes it café
    "",
    "a<|latent|>b",
]
QWEN_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_PATTERN = QWEN_PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|")


def byte_level_bpe(pre, normalizer=None, **options):
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=256 + N_MERGES, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def split(pattern):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


def special(*names):
    return [AddedToken(name, special=True, normalized=False) for name in names]


# Turns in Qwen's constructs: a namespace, a look back over the reversed turns, strings taken apart.
QWEN_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last_query=messages|length - 1, looking=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.looking and message.role == 'user' and message.content is string and not message.content.startswith('<tool>') %}
        {%- set ns.looking = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set content = message.content %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and enable_thinking is defined %}
            {{- '<|im_start|>assistant\\n<think>\\n' + content.strip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

# Turns in Llama's constructs: a first token of its own, a date, slices, trimmed contents, an exception.
LLAMA_TEMPLATE = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{#- The system turn is there whether or not one was given. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant'] %}
        {{- raise_exception("This model knows user and assistant, not " + message.role) }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

# Blocks at line ends, which only trim_blocks and lstrip_blocks keep from showing as blanks.
SMOL_TEMPLATE = """\
{% for message in messages %}
  {% if loop.first and messages[0]['role'] != 'system' %}
{{ '<|im_start|>system
You are a helpful assistant.<|im_end|>
' }}
  {% endif %}
{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant
' }}{% endif %}
"""


def gpt2():
    tokenizer = byte_level_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens(special("<|endoftext|>"))
    end = "<|endoftext|>"
    config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "bos_token": end, "eos_token": end}
    return tokenizer, config | {"unk_token": end, "model_max_length": 1024}, [end], 0, None


def qwen():
    tokenizer = byte_level_bpe(split(QWEN_PATTERN), normalizers.NFC())
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False)
    tokenizer.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    config = {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "bos_token": None}
    config |= {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None, "model_max_length": 131072}
    return tokenizer, config | {"chat_template": QWEN_TEMPLATE}, ["<|im_end|>", "<|endoftext|>"], 16, None


def llama3():
    tokenizer = byte_level_bpe(split(LLAMA_PATTERN), ignore_merges=True)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens(special(*names))
    first = [(names[0], tokenizer.token_to_id(names[0]))]
    template = processors.TemplateProcessing(
        single=f"{names[0]} $A", pair=f"{names[0]} $A {names[0]}:1 $B:1", special_tokens=first
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    config |= {"clean_up_tokenization_spaces": False, "model_max_length": 131072}
    return tokenizer, config, ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"], 0, LLAMA_TEMPLATE


def smollm2():
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer = byte_level_bpe(pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]))
    tokenizer.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    config |= {"pad_token": "<|im_end|>", "unk_token": "<|endoftext|>", "add_prefix_space": False}
    return tokenizer, config | {"chat_template": SMOL_TEMPLATE}, ["<|im_end|>"], 0, None


def write(folder, tokenizer, config, ends, more_rows, template):
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    added = {}
    for id, token in sorted(tokenizer.get_added_tokens_decoder().items()):
        fields = ["content", "lstrip", "normalized", "rstrip", "single_word", "special"]
        added[str(id)] = {field: getattr(token, field) for field in fields}
    put(folder / "tokenizer_config.json", {"added_tokens_decoder": added} | config)
    ends = [tokenizer.token_to_id(end) for end in ends]
    put(folder / "generation_config.json", {"eos_token_id": ends if len(ends) > 1 else ends[0]})
    put(folder / "config.json", {"vocab_size": tokenizer.get_vocab_size() + more_rows, "eos_token_id": ends[0]})
    if template:
        (folder / "chat_template.jinja").write_text(template)


def put(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def cases(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = {"eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id, "vocab": len(tokenizer)}
    tokenizer.add_special_tokens({"additional_special_tokens": MARKERS})
    found["markers"] = tokenizer.convert_tokens_to_ids(MARKERS)
    found["texts"] = [
        {
            "text": text,
            "special": tokenizer(text, add_special_tokens=True)["input_ids"],
            "plain": tokenizer(text, add_special_tokens=False)["input_ids"],
        }
        for text in TEXTS
    ]
    found["chats"] = []
    if tokenizer.chat_template:
        for system in [None, "Think in << and >>; answer after ###.\n"]:
            turns = [{"role": "user", "content": "Janet has 16 eggs & eats 3.\nHow many are left?"}]
            if system:
                turns.insert(0, {"role": "system", "content": system})
            # The date is today's by default; a prompt that changes from day to day is no basis for training.
            options = {"add_generation_prompt": True, "date_string": "26 Jul 2024"}
            found["chats"].append(
                {
                    "system": system,
                    "question": turns[-1]["content"],
                    "text": tokenizer.apply_chat_template(turns, tokenize=False, **options),
                    "ids": tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False, **options),
                }
            )
    return found


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    all_cases = {"versions": {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__}}
    for family in [gpt2, qwen, llama3, smollm2]:
        write(OUT / family.__name__, *family())
        all_cases[family.__name__] = cases(OUT / family.__name__)
    put(OUT / "cases.json", all_cases)
