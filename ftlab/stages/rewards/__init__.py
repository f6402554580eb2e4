"""Rewards of ppo and grpo: functions, files of the user, reward models."""
