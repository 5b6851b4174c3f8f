-- wrk calls done() once, at the end; without request() or response() the load itself stays in C.
function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        'SUMMARY {"requests":%d,"duration_us":%d,"bytes":%d,"p50_us":%d,"p99_us":%d,' ..
        '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
        summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
        errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
