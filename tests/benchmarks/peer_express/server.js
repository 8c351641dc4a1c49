// The other peer: a small Express + pg + kafkajs service, as such services are written. It does less than TaskPulse:
// a task is one INSERT or UPDATE, its event is sent to Kafka within the request, and neither undoes the other where one
// fails: no outbox, no version, no authentication, no access log, no metrics. Its statements are prepared by name.
'use strict';

const cluster = require('node:cluster');
const { randomUUID } = require('node:crypto');
const express = require('express');
const { Kafka, Partitioners, logLevel } = require('kafkajs');
const { Pool } = require('pg');

const TOPIC = process.env.PEER_KAFKA_TOPIC;
const FIELDS = ['title', 'description', 'priority', 'status', 'category', 'summary', 'labels', 'assignee_id', 'due_at'];
const PRIORITIES = ['low', 'medium', 'high'];
const STATUSES = ['pending', 'in_progress', 'completed'];
const PAGE = 50;

const pool = new Pool({ connectionString: process.env.PEER_DATABASE_URL, max: 16 });
const kafka = new Kafka({ clientId: 'peer', brokers: process.env.PEER_KAFKA_BROKERS.split(','), logLevel: logLevel.ERROR });
const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function checked(body) {
  const unknown = Object.keys(body).find((name) => !FIELDS.includes(name));
  if (unknown) throw new Refused(422, `${unknown} is no field of a task`);
  const { title, description, priority, status, labels } = body;
  if (title !== undefined && (typeof title !== 'string' || !title || title.length > 255)) throw new Refused(422, 'title: 1 to 255 characters');
  if (description !== undefined && (typeof description !== 'string' || description.length > 20000)) throw new Refused(422, 'description: at most 20,000 characters');
  if (priority !== undefined && !PRIORITIES.includes(priority)) throw new Refused(422, 'priority: low, medium or high');
  if (status !== undefined && !STATUSES.includes(status)) throw new Refused(422, 'status: pending, in_progress or completed');
  if (labels !== undefined && !(Array.isArray(labels) && labels.every((label) => typeof label === 'string'))) throw new Refused(422, 'labels: a list of texts');
  return body;
}

async function announce(type, task) {
  const event = {
    specversion: '1.0', id: randomUUID(), source: '/peer2/tasks', type: `task.${type}`, subject: `task/${task.id}`,
    time: task.updated_at, datacontenttype: 'application/json', data: { task },
  };
  await producer.send({ topic: TOPIC, acks: -1, messages: [{ key: task.id, value: JSON.stringify(event) }] });
}

const app = express();
app.disable('x-powered-by');
app.use(express.json());

app.post('/api/tasks', async (request, response) => {
  const body = checked(request.body ?? {});
  if (body.title === undefined) throw new Refused(422, 'title: 1 to 255 characters');
  const status = body.status ?? 'pending';
  const { rows } = await pool.query({
    name: 'create',
    text: `INSERT INTO peer2.task (id, title, description, priority, status, category, summary, labels, assignee_id, due_at, completed_at)
      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING *`,
    values: [
      randomUUID(), body.title, body.description ?? '', body.priority ?? 'medium', status, body.category ?? null,
      body.summary ?? null, body.labels ?? [], body.assignee_id ?? null, body.due_at ?? null, status === 'completed' ? new Date() : null,
    ],
  });
  await announce('created', rows[0]);
  response.status(201).location(`/api/tasks/${rows[0].id}`).json(rows[0]);
});

app.patch('/api/tasks/:id', async (request, response) => {
  const body = checked(request.body ?? {});
  const names = FIELDS.filter((name) => name in body);
  const changes = [...names.map((name, position) => `${name} = $${position + 2}`), 'updated_at = now()'];
  if ('status' in body) changes.push(`completed_at = ${body.status === 'completed' ? 'now()' : 'NULL'}`);
  const { rows } = await pool.query({
    name: `change ${names} ${body.status === 'completed'}`,
    text: `UPDATE peer2.task SET ${changes.join(', ')} WHERE id = $1 RETURNING *`,
    values: [request.params.id, ...names.map((name) => body[name])],
  });
  if (!rows.length) throw new Refused(404, 'there is no such task');
  await announce('updated', rows[0]);
  response.json(rows[0]);
});

app.get('/api/tasks', async (request, response) => {
  const { status } = request.query;
  const { rows } = await pool.query(
    status === undefined
      ? { name: 'list', text: `SELECT * FROM peer2.task ORDER BY created_at DESC LIMIT ${PAGE}` }
      : { name: 'list of', text: `SELECT * FROM peer2.task WHERE status = $1 ORDER BY created_at DESC LIMIT ${PAGE}`, values: [status] },
  );
  response.json(rows);
});

app.get('/api/tasks/:id', async (request, response) => {
  const { rows } = await pool.query({ name: 'get', text: 'SELECT * FROM peer2.task WHERE id = $1', values: [request.params.id] });
  if (!rows.length) throw new Refused(404, 'there is no such task');
  response.json(rows[0]);
});

app.use((error, request, response, next) => {
  if (response.headersSent) return next(error);
  const status = error.status ?? 500;
  if (status === 500) console.error(error);
  return response.status(status).json({ error: status === 500 ? 'internal error' : error.message });
});

if (cluster.isPrimary) {
  for (let worker = 0; worker < Number(process.env.PEER_WORKERS); worker += 1) cluster.fork();
  cluster.on('exit', (worker, code) => process.exit(code || 1));
  process.on('SIGTERM', () => process.exit(0));
} else {
  // It listens once it can send: else the first requests would pay for the connection.
  producer.connect().then(() => app.listen(Number(process.env.PEER_PORT), '127.0.0.1'));
}
