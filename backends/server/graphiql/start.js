"use strict";

// Where this page was served from decides where the queries go, so that it works below any path.
function fetcher(request, options) {
  return fetch("graphql", {
    method: "POST",
    headers: Object.assign({ "Content-Type": "application/json" }, (options && options.headers) || {}),
    body: JSON.stringify(request),
  }).then(function (answer) {
    return answer.json();
  });
}

ReactDOM.render(
  React.createElement(GraphiQL, {
    fetcher: fetcher,
    headerEditorEnabled: true,
    shouldPersistHeaders: false,
    defaultQuery: "query {\n  flow_run(order_by: {created: desc}, limit: 20) {\n    name\n    state\n    created\n    flow { name }\n  }\n}\n",
  }),
  document.getElementById("graphiql")
);
