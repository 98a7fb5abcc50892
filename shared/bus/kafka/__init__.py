"""The bus on Apache Kafka: binding, topics, publisher, reader. Nothing else imports aiokafka."""
