// The whole life of a webhook with Asana's own package; prints what it saw as one line of JSON.
// node official_client.js <base URL> <target>, with the package in ./node_modules

const Asana = require("asana");

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return { status: error.response.status, body: error.response.body };
  }
  throw new Error("the call should have failed");
}

async function main(basePath, target) {
  const client = Asana.ApiClient.instance;
  client.basePath = basePath;
  client.authentications.token.accessToken = "node-token";
  const webhooks = new Asana.WebhooksApi();
  const tasks = new Asana.TasksApi();
  const stories = new Asana.StoriesApi();
  const events = new Asana.EventsApi();
  const seen = {};

  const first = await failure(events.getEvents("8675309", { sync: "" }));
  seen.firstStatus = first.status;

  const body = { data: { resource: "8675309", target, filters: [{ action: "added" }] } };
  const created = await webhooks.createWebhookWithHttpInfo(body, {});
  const webhook = created.data.data;
  seen.secret = created.data["X-Hook-Secret"];
  seen.status = created.response.status;
  seen.filters = webhook.filters;
  seen.duplicate = await failure(webhooks.createWebhook(body, {}));

  const listed = await webhooks.getWebhooks("1331", { limit: 1, opt_fields: "active,target" });
  seen.listed = listed.data;
  seen.next = await listed.nextPage();
  seen.found = (await webhooks.getWebhook(webhook.gid, {})).data.gid === webhook.gid;
  const changed = await webhooks.updateWebhook({ data: { filters: [] } }, webhook.gid, {});
  seen.changed = changed.data.filters;

  const task = (await tasks.createTask({ data: { name: "From node", projects: ["8675309"] } }, {}))
    .data;
  await tasks.updateTask({ data: { completed: true } }, task.gid, {});
  const story = await stories.createStoryForTask({ data: { text: "Hello" } }, task.gid, {});
  seen.story = story.data.text;
  const page = await tasks.getTasksForProject("8675309", { limit: 3 });
  const rest = await page.nextPage();
  seen.tasks = [page.data.length, rest.data.length];
  await tasks.deleteTask(task.gid);
  seen.gone = (await failure(tasks.getTask(task.gid, {}))).status;

  const stream = await events.getEvents("8675309", { sync: first.body.sync });
  seen.events = stream.data.map((event) => [event.action, event.type]);
  seen.user = (await new Asana.UsersApi().getUser("me", {})).data.name;

  // The first webhook stays: its deliveries may be on their way.
  const spare = { data: { resource: "1301", target: target + "&spare" } };
  const other = (await webhooks.createWebhook(spare, {})).data.gid;
  seen.deleted = (await webhooks.deleteWebhook(other)).data;
  seen.left = (await webhooks.getWebhooks("1331", {})).data.length;
  console.log(JSON.stringify(seen));
}

main(process.argv[2], process.argv[3]).catch((error) => {
  console.error(error);
  process.exit(1);
});
