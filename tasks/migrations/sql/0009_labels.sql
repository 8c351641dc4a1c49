-- Labels: subjects that belong to no task.

-- What a person at psql may leave out.
ALTER TABLE tasks_label ALTER id SET DEFAULT uuidv7(), ALTER colour SET DEFAULT '#808080', ALTER description SET DEFAULT '';

-- The same document as Label.document(); the tests hold one against the other.
CREATE FUNCTION label_document(label tasks_label) RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT jsonb_build_object(
    'colour', label.colour,
    'description', label.description,
    'id', label.id,
    'name', label.name,
    'updated_at', taskpulse_time(label.updated_at),
    'version', label.version)
$$;

-- Whether a document tells of this row (as task_agrees: inlined, so without SET).
CREATE FUNCTION label_agrees(label tasks_label, document jsonb) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT document ->> 'id' = label.id::text
    AND document ->> 'version' = label.version::text
    AND document ->> 'name' = label.name
    AND document ->> 'colour' = label.colour
    AND document ->> 'description' = label.description
    AND (document ->> 'updated_at')::timestamptz IS NOT DISTINCT FROM label.updated_at
$$;

SELECT taskpulse_audit('tasks_label', 'label', 'label_document', '');

REVOKE EXECUTE ON FUNCTION label_document, label_agrees FROM PUBLIC;
