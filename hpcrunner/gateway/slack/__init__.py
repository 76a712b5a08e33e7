"""Notes for people in Slack, or anything else that takes its incoming webhooks."""
