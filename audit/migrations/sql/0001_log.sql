-- The audit log: partitioned by seq from the first day, so that indexes stay small and old spans can be detached.
CREATE TABLE task_audit_log (
  seq bigint NOT NULL,
  event_id uuid NOT NULL,
  event_type text NOT NULL,
  subject_type text NOT NULL,
  subject_id text NOT NULL,
  version bigint,
  task_id uuid,
  actor_id text,
  actor_name text,
  actor_type text,
  request_id text,
  event_data jsonb NOT NULL,
  occurred_at timestamptz NOT NULL,
  processed_at timestamptz NOT NULL,
  topic text NOT NULL,
  partition integer NOT NULL,
  "offset" bigint NOT NULL,
  digest bytea NOT NULL,
  leaf_hash bytea NOT NULL,
  PRIMARY KEY (seq)
) PARTITION BY RANGE (seq);
CREATE INDEX task_audit_log_task ON task_audit_log (task_id, seq);
CREATE INDEX task_audit_log_time ON task_audit_log USING brin (occurred_at);

CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION '% of % is refused: the audit log is append-only', TG_OP, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;

-- Row triggers of a partitioned table are those of its partitions too; statement triggers are not (see the function below).
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON task_audit_log FOR EACH ROW EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON task_audit_log FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
ALTER TABLE task_audit_log ENABLE ALWAYS TRIGGER audit_append_only;
ALTER TABLE task_audit_log ENABLE ALWAYS TRIGGER audit_no_truncate;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_no_delete;
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_no_truncate;

-- Makes the partition that holds `seq` unless it is there. SECURITY DEFINER: the recorder's role has no DDL. The table is
-- made first and attached then: ATTACH takes a lock that leaves readers and writers of the log alone.
CREATE FUNCTION audit_ensure_partition(for_seq bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $$
DECLARE
  span constant bigint := 10000000;
  number bigint := (for_seq - 1) / span;
  partition_name text := 'task_audit_log_' || lpad(number::text, greatest(5, length(number::text)), '0');
BEGIN
  IF to_regclass(partition_name) IS NOT NULL THEN
    RETURN;
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('audit_ensure_partition'));
  -- Who waited here must look into the catalogue itself: to_regclass answers from a cache that this lock does not refresh.
  PERFORM FROM pg_class WHERE relname = partition_name AND relnamespace = 'public'::regnamespace;
  IF FOUND THEN
    RETURN;
  END IF;
  EXECUTE format('CREATE TABLE %I (LIKE task_audit_log INCLUDING DEFAULTS INCLUDING STORAGE)', partition_name);
  EXECUTE format('CREATE UNIQUE INDEX %I ON %I (event_id)', partition_name || '_event', partition_name);
  EXECUTE format('ALTER TABLE task_audit_log ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
                 partition_name, number * span + 1, (number + 1) * span + 1);
  EXECUTE format('CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()', partition_name);
  EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER audit_no_truncate', partition_name);
END $$;
REVOKE EXECUTE ON FUNCTION audit_ensure_partition(bigint) FROM PUBLIC;
SELECT audit_ensure_partition(1);
