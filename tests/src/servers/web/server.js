// A web server that answers with its client's address and port, and logs that. Where no address is
// named, Node listens on a dual-stack socket.
const server = require("http").createServer(({ socket }, response) => {
  const client = `${socket.remoteAddress} ${socket.remotePort}`;
  console.log(client);
  response.end(client);
});
server.listen(Number(process.argv[1]));
