// A web server that answers with the request as it saw it, in JSON, with the body that came. /echo sends
// the body back as it comes in; an upgrade is answered with X-Forwarded-For and begins an echo.
const server = require("http").createServer((request, response) => {
  const { socket } = request;
  if (request.url === "/echo") return request.pipe(response);
  let body = "";
  request.on("data", (data) => (body += data));
  request.on("end", () =>
    response.end(
      JSON.stringify({
        method: request.method,
        target: request.url,
        headers: request.rawHeaders,
        ip: socket.remoteAddress,
        port: socket.remotePort,
        body,
      }),
    ),
  );
});
server.on("upgrade", (request, socket) => {
  const protocol = request.headers.upgrade;
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${protocol}\r\n\r\n`);
  socket.write(request.headers["x-forwarded-for"] + "\n");
  socket.pipe(socket);
});
server.keepAliveTimeout = 60000;
server.listen(Number(process.argv[1]));
