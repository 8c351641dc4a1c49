"""What only Apache Kafka can do to the pipeline; skipped unless KAFKA_BOOTSTRAP_SERVERS names one."""
