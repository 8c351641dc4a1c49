// The session's unsafe requests need the CSRF token, which Django keeps in a cookie. A Bearer token is entered by "Authorize".
"use strict";
const target = document.getElementById("swagger-ui");
SwaggerUIBundle({
  url: target.dataset.document,
  domNode: target,
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  requestInterceptor: (request) => {
    const token = document.cookie.match(/(?:^|; )csrftoken=([^;]+)/);
    if (token && !["GET", "HEAD"].includes(request.method)) request.headers["X-CSRFToken"] = token[1];
    return request;
  },
});
