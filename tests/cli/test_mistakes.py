"""What is wrong with a configuration is said in one line that names it and the fix."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("weighting._target_=builtins.print", "weighting: there is none"),
        ("-steps=4", "there is no option '-steps=4': settings are key=value"),
        ("gat.threshold=0.3", "there is no key 'gat'; did you mean 'gate'?"),
        ("fabric.strategy=fsdp", "there is no key 'fabric': it belongs to `hapo fabric`"),
        ("gate.treshold=0.3", "there is no key 'gate.treshold'; did you mean 'threshold'?"),
        ("gate._target_=hapo_lit.gates.NeverGate", "NeverGate has no settings, but gate holds some (gate was"),
        ("gate._target_=hapo_lit.gates.ScheduledGate", "(gate was chosen with them: add ~gate."),
        ("verifier._target_=no_such_module.Needle", "start hapo in the folder of a module of your own, or"),
        (
            "verifier=math verifier._target_=support.training.HasNoMetrics",
            "(verifier was chosen with them: add verifier=exact, which has no settings, or ~verifier.workers ~",
        ),
        ("+gate.treshold=0.3", "hapo_lit.gates.beta.BetaGate has no parameter 'treshold'; did you mean 'threshold'?"),
        ("+sead=1", "nothing reads the key 'sead'; did you mean 'seed'?"),
        ("experiment=grpoo", "there is no experiment=grpoo; did you mean 'grpo'?; there are: chord, chord_phi, dapo,"),
        ("gate=bta", "there is no gate=bta; did you mean 'beta'?; there are: always, beta, credible, failure"),
        ("group_size=1", "set group_size to 2 or more"),
        (
            "verifier._target_=support.training.GivesNaN",
            "support.training.GivesNaN gave the reward nan to response 1 of",
        ),
        ("verifier._target_=support.training.HasNoMetrics", "verifier: support.training.HasNoMetrics lacks metrics"),
        ("group_size=abc", "group_size must be a whole number, got 'abc'"),
        ("prompts_per_step=1.5", "prompts_per_step must be a whole number, got 1.5"),
        ("module.micro_batch_size=abc", "module.micro_batch_size must be a whole number, got 'abc'"),
        ("+data.heldout_batch=many", "data.heldout_batch must be a whole number, got 'many'"),
        ("advantage._target_=hapo_lit.gates.NeverGate advantage.estimator=null", "NeverGate"),
        ("deterministic=1", "deterministic must be true or false, got 1"),
        (
            "verifier._target_=support.training.Puts deterministic=true",
            "deterministic=true: the operation put_ has no deterministic form on this device",
        ),
        (
            "debug=fast weighting._target_=support.training.PutsInARun deterministic=true",
            "set deterministic=false; to continue: resume=auto",
        ),
        ("rollout=vllm rollout.seeded=false deterministic=true", "cannot be repeated, and deterministic=true says"),
        ("+trainer.deterministic=true", "trainer.deterministic=True contradicts deterministic=False"),
        ("gate.threshold=2", "gate.threshold must stay in [0, 1], and is 2"),
        ("gate.threshold=high", "gate.threshold must be a number or a schedule, got 'high'"),
        ("teacher=nll teacher.coefficient=null", "teacher.coefficient must be a number or a schedule, got null"),
        ("weighting=separate weighting.teacher_share=null", "weighting.teacher_share must be a number or a schedule"),
        (
            "injector.ties=LeastLikely",
            "injector.ties must be a tie break (an object with a _target_) or null, got",
        ),
        ("loss.ratio.path=hapo_lit.losses.k3", "loss.ratio must be a function of 2 tensors, and 'k3' is not"),
        ("loss.kl.path=hapo_lit.losses.k9", "hapo_lit.losses has no 'k9'"),
        ("advantage=centred advantage.over.path=hapo_lit.advantages.onpolicy", "did you mean 'on_policy'?"),
        ("advantage=centred advantage.over.path=hapo_lit.advantages.centred", "must be a function of 1 tensors"),
        ("loss.clip.low=abc", "loss.clip.low must be a number, got 'abc'"),
        ("teacher=confidence gate=always", "there is none: set gate=beta or another teacher"),
        ("experiment=sft teacher=confidence", "there is none: set gate=beta or another teacher"),
        ("gate=scheduled gate.horizon=-5", "gate.probability is a schedule and needs a horizon of at least 1 step"),
        ("resume=gone.ckpt", "checkpoint 'gone.ckpt' does not exist; set resume=auto or RUN/checkpoints/last.ckpt"),
        ("resume=/dev/zero", "resume=/dev/zero is a pipe or a device: set resume=auto or RUN/checkpoints/last.ckpt"),
        ("data=files data.path=/dev/zero", "data file '/dev/zero' is a pipe or device: set data.path to files"),
        ("optim.betas=[2,3]", "optim: Invalid beta parameter at index 0: 2 (optim has betas=[2, 3]"),
        ("optim.weight_decay=inf", "optim.weight_decay must be finite, got inf"),
        ("rollout.temperature=inf", "rollout.temperature must be a number and not negative, and finite, got inf"),
        ("weighting=separate weighting.policy_share=0 weighting.teacher_share=0", "so that nothing is learnt"),
        ("precision=16-mixed", "trainer.precision=16-mixed is not supported"),
        ("save_minutes=0", "save_minutes must be above 0, or null for never, got 0"),
        ("callbacks.checkpointer.keep=0", "callbacks.checkpointer.keep must be at least 1, or -1 for all, got 0"),
        ("module.max_skipped=-1", "module.max_skipped must be a whole number of at least 0, got -1"),
        ("model.path=/no/folder", "model folder '/no/folder' does not exist; set model.path"),
        ("phases=warmup steps=100", "phases {'warmup': 200, 'whole': None} do not add up to steps=100"),
        ("data=files", "data.path is not set, and has no default"),
        ("data=files data.path=a.jsonl", "data file 'a.jsonl' does not exist"),
        ("max_prompt_tokens=3", "all 384 prompts have more than max_prompt_tokens=3 tokens (1"),
        ("rollout.temperature=0", "training needs samples"),
        ("module.micro_batch_size=0", "module.micro_batch_size must be a whole number of at least 1, got 0"),
        ("module.padding_free=1", "module.padding_free must be true or false or null, got 1"),
        ("module.updates_per_batch=0", "module.updates_per_batch must be a whole number from 1 to 4,096, got 0"),
        ("module.max_grad_norm=0", "would stop all learning"),
        ("module.max_grad_norm=1e-30", "would stop all learning"),
        ("optim._target_=os.system", "(in optim)"),
        ("prompts_per_step=0", "prompts_per_step must be a whole number of at least 1, got 0"),
        ("prompts_per_step=500", "there are only 384 training problems"),
        ("eval_every=0", "eval_every must be a whole number of at least 1, got 0"),
        ("threads=0", "threads must be"),
        ("seed=-1", "seed must be a whole number of at least 0, got -1"),
        ("learning_rate=1e-4", "a group was given a float: name one of its options"),
        ("--experiment=grpo", "there is no option '--experiment=grpo': settings are key=value"),
        ("+optim.lr=3e-4", "set learning_rate.start"),
        ("trainer.max_epochs=2", "the length of a run is set by steps"),
        ("data.source.heldout_size=0", "there are no problems"),
        ("advantage.ddof=0", "there is no key 'advantage.ddof'; `--cfg job` prints all keys"),
        ("group_size=3", "gate.threshold=0.2 with 3 rollouts per group could never open: γ ≤ a0/(a0+b0+n) = 0.2"),
        ("injector=replace_group", "set teacher=nll or another injector"),
        ("trainer=bare", "keep a CSVLogger in logger"),
        ("trainer.strategy=fsdp", "trainer.strategy=fsdp is not supported: set auto or ddp, or use `hapo fabric`"),
        ("seed=[", "no viable alternative"),
    ],
)
def test_a_mistake_is_one_line_that_names_it_and_the_fix(says, base, override, message):
    overrides = override.split(" ") if "{" not in override else [override]
    if not override.startswith("model"):
        overrides = [f"model.path={base}", *overrides]
    assert message in says("train", *overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+model.lora={rank:0}", "nothing reads model.lora with this model: leave it out, or set model=hf"),
        ("model.path=elsewhere", "nothing reads model.path with this model"),
        ("+model.policy.sizes.hidden_sise=3", "it has no size hidden_sise; did you mean 'hidden_size'?"),
        ("model.policy.sizes.rope_parameters.rope_theta=0", "logits are not finite"),
    ],
)
def test_mistakes_in_a_new_model(says, override, message):
    assert message in says("train", "experiment=smoke", override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.devices=2", "there is no key 'trainer'"),
        ("fabric.precision=16-mixed", "fabric.precision=16-mixed is not supported: set 32-true or bf16-mixed"),
        ("fabric.sharded_checkpoints=true", "needs fabric.strategy=fsdp"),
        ("fabric.async_checkpoints=true", "needs fabric.strategy=fsdp and sharded checkpoints"),
        ("fabric.replicas=2", "fabric.replicas=2 needs fabric.strategy=fsdp: with any other every process holds all"),
        ("fabric.reshard_after_forward=false", "fabric.reshard_after_forward=false needs fabric.strategy=fsdp"),
        ("model.policy.strategy=fsdp", "leaves the weights to shards, and there are none"),
        ("fabric.strategy=deepspeed", "is not supported: set auto, ddp or fsdp"),
        ("fabric.strategy=tpp", "fabric.strategy=tpp is not supported: set auto, ddp or fsdp"),
        ("resume=gone.ckpt", "checkpoint 'gone.ckpt' does not exist"),
        ("resume=/", "resume=/: / is a folder and no checkpoint"),
    ],
)
def test_mistakes_in_settings_of_fabric(says, base, override, message):
    assert message in says("fabric", f"model.path={base}", override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.lora.rank=0", "model.lora.rank must be a whole number of at least 1"),
        ("model.lora.dropout=0.1", "dropout"),
        ("model.lora.rnak=4", "there is no key 'model.lora.rnak'; did you mean 'rank'?"),
        ("model.attention=flash", "model.attention=flash is not known: set one of sdpa, eager, flash_attention_2"),
        ("model.policy.strategy=fsdp", "leaves the weights to shards, and there are none: use `hapo fabric`"),
        ("model.attention=flex_attention", "does not train on a CPU: set model.attention=sdpa"),
    ],
)
def test_mistakes_in_the_adapter_and_the_attention(says, base, override, message):
    assert message in says("train", f"model.path={base}", "model.lora.rank=4", override)
