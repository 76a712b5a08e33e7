"""Where requests come from: RabbitMQ and directory queues behind one protocol."""
